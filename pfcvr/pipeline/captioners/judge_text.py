"""What can be wrong with a sentence or phrase itself: noise, refusals, markup, loops, plate text, language, length."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pfcvr.pipeline.captioners.judge_language import english_problem

SHOWN = 40  # characters of an offending text that a detail repeats
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

MARKUP = re.compile(
    r"```|\*\*|^\s{0,3}#{1,6}\s|^\s*[-*•]\s|^\s*\d+[.)]\s|</?[a-zA-Z!][^<>]*>|<\|[^|]*\|>"
    r"|&(?:[a-zA-Z]{2,8}|#x?[0-9a-fA-F]+);"
    r"|[{}\[\]]|\\[nu\"]|\"\s*:\s*\"",
    re.MULTILINE,
)
DECLINED = re.compile(
    r"\bas an? (?:ai|language model|assistant)\b|\bi(?:['’]m| am) (?:sorry|unable|not able|afraid)\b|\bi apologi[sz]e\b"
    r"|\bi (?:cannot|can['’]t|can not|could not|couldn['’]t|do not|don['’]t) (?:\w+ )?"
    r"(?:see|view|describe|assist|help|identify|provide|comply|analy[sz]e|access|determine|process)\b"
    r"|\bunable to (?:see|view|provide|describe|assist|process|analy[sz]e)\b"
    r"|\b(?:please|kindly) (?:provide|upload|share|attach) (?:an?|the|your)\b"
    r"|\bno (?:image|picture|photo|vehicle) (?:was|is|has been) (?:provided|attached|uploaded|visible|shown|given)\b"
    r"|\b(?:image|picture|photo) (?:was|is) not (?:provided|attached|available|visible)\b",
    re.IGNORECASE,
)
PLATE_TALK = re.compile(
    r"\b(?:plate|registration)s?\b(?:(?: \w+){0,3} "
    r"(?:reads|reading|says?|saying|number is|numbered|with the (?:number|letters|characters|digits|text))\b"
    r"|(?: \w+){0,2} ?[:\"“'‘])",
    re.IGNORECASE,
)
CODE = r"\b(?=[A-Z0-9]*[A-Z])(?=[A-Z0-9]*\d)[A-Z0-9]{4,9}\b"
LONG_CODE = re.compile(CODE.replace("{4,", "{5,"))
CODE_AT_PLATE = re.compile(rf"\b(?:[Pp]lates?|[Rr]egistration)\b[^.]{{0,30}}?{CODE}")
# A badge is letters and a number, perhaps a letter more (XC90, GLE450, X5M), or a word and a number (MAZDA3, 4MATIC).
BADGE = re.compile(r"[A-Z]{1,3}\d{1,3}[A-Z]?|\d{1,3}[A-Z]{1,3}|[A-Z]{4,}\d{1,3}|\d{1,2}[A-Z]{4,}")
PLATE_SHAPES = re.compile(
    r"[\u4e00-\u9fff][A-Z][·•.\s]?[A-Z0-9]{5,6}|\b[A-Z]{2}\d{2} [A-Z]{3}\b|\b[A-Z]{2,3}-\d{3,4}(?:-[A-Z]{2})?\b"
    r"|\b\d{1,4}[ -][A-Z]{2,3}[ -]\d{1,4}\b|\b[A-Z]{1,3}-[A-Z]{1,2} ?\d{2,4}\b"
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
    found = DECLINED.search(text)
    return TextFault("declined", f"the model declined: '{_shown(found.group())}'") if found else None


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
    found = PLATE_TALK.search(text) or PLATE_SHAPES.search(text) or CODE_AT_PLATE.search(text)
    codes = [code for code in LONG_CODE.findall(text) if BADGE.fullmatch(code) is None]
    if found is None and not codes:
        return None
    return TextFault("plate_text", f"reads like a number plate: '{_shown(found.group() if found else codes[0])}'")


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
