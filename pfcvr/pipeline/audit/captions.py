"""Audits of captions: empty, degenerate, templated, too long for CLIP, shared by different vehicles, at odds."""

from collections import Counter
from collections.abc import Iterator

from pfcvr.clip_vocabulary import CLIP_LENGTH, clip_bpe, token_counts
from pfcvr.pipeline.audit import EXAMPLES_KEPT, Case, Cases, Finding, Tally
from pfcvr.pipeline.audit.agreement import Agreement
from pfcvr.pipeline.audit.near_captions import NearCaptions
from pfcvr.pipeline.audit.table import WORD, AuditTable
from pfcvr.pipeline.joined import JoinedImage

TEMPLATE_CAPTIONERS = frozenset({"template"})
FEWEST_WORDS = 3
COMMONEST_WORD_SHARE = 0.5
TEXTS_PER_COUNT = 512


class CaptionAudit:
    """Looks at one image after the other; ``findings`` sums up."""

    def __init__(self) -> None:
        self._captions = 0
        self._missing, self._empty, self._degenerate = Tally(), Tally(), Tally()
        self._templated, self._truncated, self._no_origin = Tally(), Tally(), Tally()
        self._bpe = clip_bpe()
        self._uncounted: list[tuple[str, str]] = []
        self._agreement, self._near = Agreement(), NearCaptions()

    def look_at(self, joined: JoinedImage) -> None:
        """Take one image into account."""
        image_id, caption = joined.image.image_id, joined.caption
        if caption is None:
            self._missing.add_image(image_id)
            return
        if caption.origin.captioner in TEMPLATE_CAPTIONERS:
            self._templated.add_image(image_id)
        elif caption.origin.model is not None and caption.origin.prompt_sha256 is None:
            self._no_origin.add_image(image_id)
        self._agreement.add(joined.image, caption)
        self._near.add(joined.image, caption)
        for text in caption.texts:
            self._captions += 1
            if not text.strip():
                self._empty.add_image(image_id)
            elif is_degenerate(text):
                self._degenerate.add_image(image_id)
            self._uncounted.append((image_id, text))
        if len(self._uncounted) >= TEXTS_PER_COUNT:
            self._count_tokens()

    def findings(self, table: AuditTable) -> Iterator[Finding]:
        """Everything found, once all images were looked at."""
        self._count_tokens()
        yield from self._empty.finding("empty_captions", "failure", "captions are empty; caption them again")
        yield from self._no_origin.finding(
            "missing_provenance", "failure", "captions name a model but not its prompt; caption them again"
        )
        yield from self._missing.finding(
            "missing_captions", "warning", "images have no caption and will be left out of the export"
        )
        yield from self._degenerate.finding(
            "degenerate_captions", "warning", "captions are shorter than three words or repeat one word"
        )
        yield from self._templated.finding(
            "templated_captions", "warning", "images are captioned by a template: a start, not a data set"
        )
        yield from _shared_captions(table)
        yield from self._near.finding()
        doubts = Tally()
        for doubt in self._agreement.doubts():
            doubts.add(doubt.text(), doubt.image_id)
        yield from doubts.finding(
            "contradicting_captions",
            "warning",
            "statements on color or type contradict the vehicle's other captions or the source; look at the images",
        )
        if self._bpe is None:
            sentence = "captions were not counted in tokens; for CLIP's vocabulary, in the clone run: "
            sentence += "pip install -e '.[model]'"
            yield Finding("tokens_not_counted", "note", self._captions, sentence)
        yield from self._truncated.finding(
            "truncated_captions", "warning", f"captions exceed CLIP's {CLIP_LENGTH} tokens and will be cut"
        )

    def close(self) -> None:
        """Remove what was put aside on disk."""
        self._agreement.close()
        self._near.close()

    def _count_tokens(self) -> None:
        if self._bpe is not None:
            counts = token_counts(self._bpe, [text for _, text in self._uncounted])
            for (image_id, _), tokens in zip(self._uncounted, counts, strict=True):
                if tokens > CLIP_LENGTH:
                    self._truncated.add_image(image_id)
        self._uncounted = []


def is_degenerate(text: str) -> bool:
    """Whether ``text`` is too short to describe a vehicle, or mostly one word (``!!!!``, loops)."""
    words = WORD.findall(text.lower())
    if len(words) < FEWEST_WORDS:
        return True
    return Counter(words).most_common(1)[0][1] > COMMONEST_WORD_SHARE * len(words)


def _shared_captions(table: AuditTable) -> Iterator[Finding]:
    """Texts that different vehicles share word for word: no retrieval can tell these apart."""
    query = (
        "SELECT min(image_id), max(image_id), count(*) FROM caption "
        "GROUP BY words HAVING count(DISTINCT vehicle) > 1 ORDER BY 3 DESC, 1"
    )
    captions = texts = 0
    examples: list[str] = []
    for one, other, uses in table.select(query):
        texts += 1
        captions += uses
        if len(examples) < EXAMPLES_KEPT:
            examples.append(f"{one} = {other}")
    if texts:
        sentence = f"captions of different vehicles say the same in the same words ({texts:,} texts)"
        cases = _users_of_shared_texts(table)
        yield Finding("identical_captions", "warning", captions, sentence, tuple(examples), cases)


def _users_of_shared_texts(table: AuditTable) -> Cases:
    """A case for each caption whose words another vehicle has, with the first image that has them."""
    query = (
        "SELECT caption.image_id, shared.first FROM caption JOIN (SELECT words, min(image_id) AS first FROM caption "
        "GROUP BY words HAVING count(DISTINCT vehicle) > 1) AS shared USING (words) ORDER BY 2, 1"
    )
    cases = Cases()
    for image_id, first in table.select(query):
        cases.append(Case(image_id, (image_id,), f"the words of {first}"))
    return cases
