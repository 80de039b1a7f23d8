"""Is an answer of a vision-language model a caption? HTTP 200 is no proof: all are judged, refusals have a reason."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Any, Literal

from tokenizers import Tokenizer

from pfcvr.clip_vocabulary import CLIP_LENGTH, clip_bpe, token_counts
from pfcvr.pipeline.captioners import plain_text
from pfcvr.pipeline.captioners.judge_schema import answer_problem
from pfcvr.pipeline.captioners.judge_text import TextFault, TextReason, Wording, text_fault
from pfcvr.pipeline.captioners.judge_unseen import is_unseen
from pfcvr.pipeline.captioners.prompt import Prompt
from pfcvr.records import ATTRIBUTES, PARTS, Attribute, Part

# Servers count vision tokens by rules of their own (28 or 32 px a token, tiles, 256 for any picture); half of ours, and
# never more than half of 256, is still a picture.
LEAST_VISION_SHARE = 0.5
MOST_DEMANDED = 128
# Tokenizers give a word or mark at least one token, and in 8 scripts Qwen's spends one on 3.7 to 5.4 bytes of prose.
PIECE = re.compile(r"[^\W_]+|[^\w\s]+")
BYTES_PER_TOKEN = 5
LONGEST_PHRASE = 25  # words
LONGEST_SHOWN = 40  # characters of a phrase in a detail
# Of a hundred threads that judge their first answer at once, one loads the tokenizer's 26 MB.
_loading = Lock()
COPIES = 3  # parts that may not share a phrase
PLAIN_COPIES = 5  # nor one of a word or two: doors, mirrors and roof of a white car may all be white
Reason = Literal["no_image", "truncated", "abnormal_finish", "not_json", "schema_mismatch"] | TextReason


@dataclass(frozen=True)
class Answer:
    """What came back for one image. Counts are None where they are not known, and are then not judged.

    ``prompt_tokens`` counts instruction and picture; ``expected_vision_tokens`` is our forecast for the picture.
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    expected_vision_tokens: int | None = None


@dataclass(frozen=True)
class Judged:
    """A good answer. A fact that the model does not know, and a part that it does not see, are absent."""

    texts: tuple[str, ...]
    part_texts: dict[Part, str] = field(default_factory=dict)
    color: str | None = None
    type: str | None = None
    viewpoint: str | None = None

    @property
    def attributes(self) -> dict[Attribute, str]:
        """The known facts, as a Caption record holds them."""
        known = {name: getattr(self, name) for name in ATTRIBUTES}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Refusal:
    """A bad answer. ``detail`` says what was found; texts in it are cut short."""

    reason: Reason
    detail: str


def judge(answer: Answer, prompt: Prompt) -> Judged | Refusal:
    """The captions in ``answer``, or why it holds none; never raises, whatever the text is."""
    problem = _delivery_problem(answer, prompt)
    if problem is not None:
        return problem
    if prompt.json_schema is None:
        return _judged({"caption": answer.text}, prompt)
    try:
        value = json.loads(answer.text)
    except (ValueError, RecursionError) as error:
        return _refusal("not_json", f"the answer is no JSON: {str(error)[:120]}")
    mismatch = answer_problem(prompt.json_schema, value)
    if mismatch is not None:
        return _refusal("schema_mismatch", mismatch)
    return _judged(value, prompt)


@cache
def least_tokens(text: str) -> int:
    """About the fewest tokens that a tokenizer of today makes of ``text``, in any script."""
    return max(len(PIECE.findall(text)), len(text.encode(errors="replace")) // BYTES_PER_TOKEN)


def json_in(text: str) -> str:
    """The JSON object inside ``text`` for models that no schema can be imposed on: without fence, thoughts or chatter.

    What holds no object is given back as it is.
    """
    after_thoughts = text.rpartition("</think>")[2]
    start, end = after_thoughts.find("{"), after_thoughts.rfind("}")
    return after_thoughts[start : end + 1] if 0 <= start < end else text


def changed_sampling(sampling: dict[str, float | int], attempt: int) -> dict[str, float | int]:
    """``sampling`` for the ``attempt``-th try at an image, 0 being the first, which takes it as it stands.

    An answer that was bad once is bad again under the same sampling, so each further try is warmer, and repeats less.
    """
    if attempt == 0:
        return dict(sampling)
    temperature = min(1.2, sampling.get("temperature", 0.7) + 0.2 * attempt)
    penalty = min(2.0, sampling.get("presence_penalty", 0.0) + 0.25 * attempt)
    return {**sampling, "temperature": round(temperature, 3), "presence_penalty": round(penalty, 3)}


def _delivery_problem(answer: Answer, prompt: Prompt) -> Refusal | None:
    """Did the model see the picture, and did it end by itself?"""
    if answer.prompt_tokens is not None and answer.expected_vision_tokens is not None:
        instruction = least_tokens(f"{prompt.system}\n{prompt.user}")
        picture = min(round(LEAST_VISION_SHARE * answer.expected_vision_tokens), MOST_DEMANDED)
        if answer.prompt_tokens < instruction + picture:
            return _refusal(
                "no_image",
                f"the prompt took {answer.prompt_tokens} tokens, too few for an instruction of {instruction} or more "
                f"and a picture of about {answer.expected_vision_tokens}: the model did not see it",
            )
    if answer.finish_reason == "length":
        return _refusal("truncated", f"cut off after {answer.completion_tokens or prompt.max_tokens} tokens")
    if answer.finish_reason == "repetition":
        return _refusal("repetition", "the server stopped a loop")
    if answer.finish_reason not in (None, "stop"):
        return _refusal("abnormal_finish", f"the answer ended with '{answer.finish_reason[:40]}'")
    return None


def _judged(value: dict[str, Any], prompt: Prompt) -> Judged | Refusal:
    caption = value["caption"].strip()
    fault = text_fault(caption, Wording(prompt.language, prompt.min_words, prompt.max_words)) or _token_fault(caption)
    if fault is not None:
        return _refusal(fault.reason, fault.detail)
    phrases = {**value.get("parts", {}), **{name: value[name] for name in ATTRIBUTES if name in value}}
    known: dict[str, str] = {}
    for name, raw in phrases.items():
        phrase = plain_text(raw)
        if is_unseen(phrase):
            continue
        fault = text_fault(phrase, Wording(prompt.language, 1, LONGEST_PHRASE))
        if fault is not None:
            return _refusal(fault.reason, f"{name}: {fault.detail}")
        known[name] = phrase
    parts = {part: known[part] for part in PARTS if part in known}
    fault = _copies(parts)
    if fault is not None:
        return _refusal(fault.reason, fault.detail)
    facts = {name: known.get(name) for name in ATTRIBUTES}
    return Judged((plain_text(caption),), parts, **facts)


def _copies(part_texts: dict[Part, str]) -> TextFault | None:
    """The fault of one phrase for too many parts."""
    users = defaultdict(list)
    for part, phrase in part_texts.items():
        users[phrase.lower().rstrip(".")].append(part)
    for phrase, parts in users.items():
        if len(parts) >= (COPIES if len(phrase.split()) > 2 else PLAIN_COPIES):
            return TextFault("degenerate", f"one phrase for {', '.join(parts)}: '{phrase[:LONGEST_SHOWN]}'")
    return None


def _refusal(reason: Reason, detail: str) -> Refusal:
    printable = "".join(c if c.isprintable() else " " for c in detail)
    return Refusal(reason, " ".join(printable.split()))


def _token_fault(caption: str) -> TextFault | None:
    with _loading:
        bpe = _clip_tokens()
    if bpe is None:
        return None
    (tokens,) = token_counts(bpe, [caption])
    if tokens > CLIP_LENGTH:
        return TextFault("too_many_tokens", f"{tokens - 2} tokens of CLIP, more than {CLIP_LENGTH - 2}")
    return None


@cache
def _clip_tokens() -> Tokenizer | None:
    return clip_bpe()
