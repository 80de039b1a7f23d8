"""Does a text read out a number plate? Badges, lettering and counts are no plates; a plate may be there and unread."""

import re
from collections.abc import Iterator

HEAD = re.compile(
    r"(?:(?<!skid )(?<!kick )(?<!scuff )(?<!step )(?<!tread )\b(?:number|licen[cs]e)?plates?"
    r"|\bregistrations?|\blicen[cs]e (?:number|tag)s?)\b",
    re.IGNORECASE,
)
NEAR = 5  # words after a plate in which a digit is taken as the plate's
WORD = re.compile(r"\S+")
PUNCTUATION = ".,;:!?()\"'“”‘’"
END_OF_CLAUSE = tuple(".,;!?)")
# What follows these is no longer about the plate: "a white plate below the Mazda 3 badge".
_ELSEWHERE = r"(?:above|and|at|behind|below|beneath|beside|between|but|near|next|of|on|over|under|underneath|while)"
ELSEWHERE = re.compile(_ELSEWHERE, re.IGNORECASE)
MEASURE = re.compile(r"\d{1,2}-[a-z]{3,}(?:-[a-z]+)*")  # 20-inch, 5-spoke
COUNT = re.compile(r"\d{1,2} (?:[a-z]+ )?[a-z]{3,}s\b")  # 4 doors, 2 round lamps

_HIDDEN = (
    r"(?:not|nothing|unreadable|unclear|illegible|invisible|hidden|obscured|masked|covered|blurred|blurry|blank|missing"
    r"|removed|cut|cropped|faded|painted|too|partly|partially)\b"
)
_BEARS = r"(?:shows|showing|displays|displaying|bears|bearing|carries|carrying)"
# What follows the word plate where its text is told: in so many words or quotes, as letters, or as a code further on.
TOLD = (
    re.compile(
        r"(?: \w+){0,3} (?:reads|reading|says?|saying|numbered|with the (?:number|letters|characters|digits|text))\b"
        rf"(?! (?:(?:is|are|being) )?{_HIDDEN})|(?: \w+){{0,2}}(?: ?[:\"“]| ['‘])",
        re.IGNORECASE,
    ),
    re.compile(
        rf"(?: (?!{_ELSEWHERE}\b)\w+){{0,3}} (?:{_BEARS}|number) (?:(?:the|is|letters|characters|code|number) ){{0,2}}"
        r"(?!LED|USA|SUV)[A-Z]{3,}\b"
    ),
    re.compile(
        rf"[^.;]{{0,30}}? (?:{_BEARS}|ends|ending|starts|starting|begins|beginning) (?:[a-z]+ ){{0,3}}\d{{2,}}\b"
        r"(?!-[a-z])",
        re.IGNORECASE,
    ),
    re.compile(r", (?i:(?:(?:number|numbered|no\.?|code|text|reading) )?)(?:[A-Z]{1,3} ?\d{3,}|\d{4,})\b"),
)
IN_FRONT = re.compile(
    r"\b(?:[A-Z]{1,3}[ -]?)?\d{3,}[A-Z]{0,3}\b(?: (?:is )?(?:on|across) (?:\w+ ){0,3}"
    r"| (?:(?:front|rear|number|licen[cs]e|registration) ){0,2})plates?\b"
)
SHAPES = re.compile(
    r"[\u4e00-\u9fff][A-Z][·•.\s]?[A-Z0-9]{5,6}|\b[A-Z]{2}\d{2} [A-Z]{3}\b|\b[A-Z]{2,3}-\d{3,4}(?:-[A-Z]{2})?\b"
    r"|\b\d{1,4}[ -][A-Z]{2,3}[ -]\d{1,4}\b|\b[A-Z]{1,3}-[A-Z]{1,2} ?\d{2,4}\b"
)
LONG_CODE = re.compile(r"\b(?=[A-Z0-9]*[A-Z])(?=[A-Z0-9]*\d)[A-Z0-9]{5,10}\b")
# A badge is letters and a number, perhaps a letter more (XC90, GLE450, X5M), or a word and a number (MAZDA3, 4MATIC).
BADGE = re.compile(r"[A-Z]{1,3}\d{1,3}[A-Z]?|\d{1,3}[A-Z]{1,3}|[A-Z]{4,}\d{1,3}|\d{1,2}[A-Z]{4,}")


def plate_in(text: str) -> str | None:
    """What in ``text`` reads like a number plate, or None."""
    return next(_plates(text), None)


def _plates(text: str) -> Iterator[str]:
    for head in HEAD.finditer(text):
        told = (found.end() for pattern in TOLD if (found := pattern.match(text, head.end())))
        end = next(told, None) or _end_of_digits(text, head.end())
        if end is not None:
            yield text[head.start() : end]
    for pattern in (IN_FRONT, SHAPES):
        yield from (found.group() for found in pattern.finditer(text))
    yield from (code for code in LONG_CODE.findall(text) if BADGE.fullmatch(code) is None)


def _end_of_digits(text: str, start: int) -> int | None:
    """Where the first word with a digit ends, in the clause from ``start`` on and within NEAR words; None for none."""
    words = WORD.finditer(text, start)
    for _, found in zip(range(NEAR), words, strict=False):
        word = found.group().strip(PUNCTUATION)
        if ELSEWHERE.fullmatch(word):
            return None
        counted = MEASURE.fullmatch(word) or COUNT.match(text, found.start())
        if any(c.isdigit() for c in word) and not counted:
            return found.end()
        if found.group().endswith(END_OF_CLAUSE) and word.lower() not in ("no", "number"):
            return None
    return None
