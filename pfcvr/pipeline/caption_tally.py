"""Counts over captions: words, vocabulary, tokens of CLIP, and how well they tell vehicles apart."""

from collections import Counter
from typing import Any

from pfcvr.clip_vocabulary import CLIP_LENGTH, clip_bpe, token_counts
from pfcvr.pipeline.audit.table import WORD
from pfcvr.pipeline.caption_twins import CaptionTwins
from pfcvr.pipeline.joined import JoinedImage

WORDS_PER_BIN = 10
COMMONEST = 20
TEXTS_PER_COUNT = 512


class CaptionTally:
    """Looks at one image after the other; memory grows with the vocabulary alone."""

    def __init__(self) -> None:
        self.captions = self.all_words = 0
        self.words: Counter[int] = Counter()
        self._vocabulary: Counter[str] = Counter()
        self._bpe = clip_bpe()
        self._uncounted: list[str] = []
        self._tokens: Counter[int] = Counter()
        self._twins = CaptionTwins()

    def look_at(self, joined: JoinedImage) -> None:
        """Take one image into account."""
        texts = joined.caption.texts if joined.caption is not None else ()
        for text in texts:
            count = len(text.split())
            self.captions += 1
            self.all_words += count
            self.words[count // WORDS_PER_BIN * WORDS_PER_BIN] += 1
            self._vocabulary.update(WORD.findall(text.lower()))
            self._uncounted.append(text)
        self._twins.add(joined.image, texts)
        if len(self._uncounted) >= TEXTS_PER_COUNT:
            self._count_tokens()

    def words_per_caption(self) -> float | None:
        """The mean, as the paper's Table II has it; None without captions."""
        return round(self.all_words / self.captions, 2) if self.captions else None

    def vocabulary(self) -> dict[str, Any]:
        """Different words in lower case, those that occur once, and the commonest with their counts."""
        return {
            "words": len(self._vocabulary),
            "used_once": sum(count == 1 for count in self._vocabulary.values()),
            "commonest": dict(sorted(self._vocabulary.items(), key=lambda item: (-item[1], item[0]))[:COMMONEST]),
        }

    def tokens(self) -> dict[str, Any] | None:
        """Tokens a caption with start and end, and how many captions CLIP cuts; None without CLIP's vocabulary."""
        self._count_tokens()
        if self._bpe is None or not self._tokens:
            return None
        truncated = sum(uses for tokens, uses in self._tokens.items() if tokens > CLIP_LENGTH)
        bins = Counter[int]()
        for tokens, uses in self._tokens.items():
            bins[tokens // WORDS_PER_BIN * WORDS_PER_BIN] += uses
        return {
            "limit": CLIP_LENGTH,
            "mean": round(sum(tokens * uses for tokens, uses in self._tokens.items()) / self._tokens.total(), 2),
            "most": max(self._tokens),
            "truncated": truncated,
            "truncated_share": round(truncated / self._tokens.total(), 4),
            "histogram": without_gaps(bins),
        }

    def distinctiveness(self) -> dict[str, Any]:
        """What ``CaptionTwins.report`` says."""
        return self._twins.report()

    def close(self) -> None:
        """Remove what was put aside on disk."""
        self._twins.close()

    def _count_tokens(self) -> None:
        if self._bpe is not None and self._uncounted:
            self._tokens.update(token_counts(self._bpe, self._uncounted))
        self._uncounted = []


def without_gaps(bins: Counter[int]) -> dict[str, int]:
    """``bins`` of WORDS_PER_BIN by first and last number, in order, with the empty ones between first and last."""
    if not bins:
        return {}
    starts = range(min(bins), max(bins) + 1, WORDS_PER_BIN)
    return {f"{start}-{start + WORDS_PER_BIN - 1}": bins[start] for start in starts}
