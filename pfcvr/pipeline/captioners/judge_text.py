"""What can be wrong with a sentence or phrase itself: noise, refusals, markup, loops, plate text, language, length."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pfcvr.pipeline.captioners.judge_language import english_problem
from pfcvr.pipeline.captioners.judge_plate import plate_in
from pfcvr.pipeline.captioners.judge_unseen import declined

SHOWN = 40  # characters of an offending text that a detail repeats
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

MARKUP = re.compile(
    r"```|\*\*|^\s{0,3}#{1,6}\s|^\s*[-*•]\s|^\s*\d+[.)]\s|</?[a-zA-Z!][^<>]*>|<\|[^|]*\|>"
    r"|&(?:[a-zA-Z]{2,8}|#x?[0-9a-fA-F]+);"
    r"|[{}\[\]]|\\[nu\"]|\"\s*:\s*\"",
    re.MULTILINE,
)

LETTER_SHARE = 0.6
ENDLESS_WORD = re.compile(r"[a-zA-Z]{31,}")
SAME_CHARACTERS = re.compile(r"(\S)\1{6,}|([^\w\s.])\2{3,}|\.{5,}|\s{12,}")
COMMONEST_SHARE = 0.25
FEWEST_WORDS_FOR_SHARE = 10
LOOP_LENGTHS = range(1, 13)
TIMES_IN_A_ROW = 3
DISTINCT_SHARE = 0.75
RUN_OF_WORDS = 4


TextReason = Literal[
    "empty",
    "degenerate",
    "declined",
    "markup",
    "repetition",
    "plate_text",
    "wrong_language",
    "too_short",
    "too_long",
    "too_many_tokens",
]


@dataclass(frozen=True)
class TextFault:
    """Why a text is no caption; ``detail`` shows where."""

    reason: TextReason
    detail: str


@dataclass(frozen=True)
class Wording:
    """What a text has to be: in ``language`` (only English, ``en``, is checked), of so many words."""

    language: str
    min_words: int
    max_words: int


def text_fault(text: str, wording: Wording) -> TextFault | None:
    """The first fault of ``text``, the most telling ones looked for first; None for a good text."""
    if not text.strip():
        return TextFault("empty", "the text is empty")
    for look in _LOOKS:
        fault = look(text)
        if fault is not None:
            return fault
    problem = english_problem(text) if wording.language == "en" else None
    if problem is not None:
        return TextFault("wrong_language", problem)
    return _length_fault(text, wording)


def word_count(text: str) -> int:
    """Words as the paper's table counts them: what white space separates."""
    return len(text.split())


def _declined(text: str) -> TextFault | None:
    words = declined(text)
    return None if words is None else TextFault("declined", f"the model described nothing: '{_shown(words)}'")


def _markup(text: str) -> TextFault | None:
    found = MARKUP.search(text)
    return TextFault("markup", f"markup or code inside the text: '{_shown(found.group())}'") if found else None


def _degenerate(text: str) -> TextFault | None:
    if not all(c.isprintable() or c.isspace() for c in text) or "\ufffd" in text:
        return TextFault("degenerate", "control characters or broken encoding")
    run = SAME_CHARACTERS.search(text)
    if run is not None:
        return TextFault("degenerate", f"one character again and again: '{_shown(run.group())}'")
    solid = [c for c in text if not c.isspace()]
    letters = sum(c.isalpha() for c in solid)
    if letters < LETTER_SHARE * len(solid):
        return TextFault("degenerate", f"{letters} letters among {len(solid)} characters")
    endless = ENDLESS_WORD.search(text)
    if endless is not None:
        return TextFault("degenerate", f"a word of {len(endless.group())} letters: '{_shown(endless.group())}'")
    return None


def _repetition(text: str) -> TextFault | None:
    words = WORD.findall(text.lower())
    loop = _loop(words)
    if loop:
        return TextFault("repetition", f"again and again: '{_shown(' '.join(loop))}'")
    if len(words) >= FEWEST_WORDS_FOR_SHARE:
        word, uses = Counter(words).most_common(1)[0]
        if uses > max(COMMONEST_SHARE * len(words), TIMES_IN_A_ROW):
            return TextFault("repetition", f"'{_shown(word)}' is {uses} of {len(words)} words")
    runs = [tuple(words[i : i + RUN_OF_WORDS]) for i in range(len(words) - RUN_OF_WORDS + 1)]
    if len(runs) > 2 * RUN_OF_WORDS and len(set(runs)) < DISTINCT_SHARE * len(runs):
        return TextFault("repetition", f"{len(runs) - len(set(runs))} of {len(runs)} runs of four words come back")
    return None


def _loop(words: list[str]) -> list[str]:
    """The words that stand TIMES_IN_A_ROW times after each other, or none."""
    for length in LOOP_LENGTHS:
        same = 0
        for place in range(length, len(words)):
            same = same + 1 if words[place] == words[place - length] else 0
            if same >= length * (TIMES_IN_A_ROW - 1):
                return words[place - length + 1 : place + 1]
    return []


def _plate_text(text: str) -> TextFault | None:
    plate = plate_in(text)
    return None if plate is None else TextFault("plate_text", f"reads like a number plate: '{_shown(plate)}'")


def _length_fault(text: str, wording: Wording) -> TextFault | None:
    words = word_count(text)
    if words < wording.min_words:
        return TextFault("too_short", f"{words} words, fewer than {wording.min_words}")
    if words > wording.max_words:
        return TextFault("too_long", f"{words} words, more than {wording.max_words}")
    return None


def _shown(text: str) -> str:
    return " ".join(text.split())[:SHOWN]


_LOOKS: tuple[Callable[[str], TextFault | None], ...] = (_declined, _markup, _degenerate, _repetition, _plate_text)
