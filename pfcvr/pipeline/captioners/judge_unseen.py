"""Does a text say that there is nothing to describe: no picture, no vehicle in it, or a part that is not seen?"""

import re


def _any_of(*forms: str) -> str:
    return f"(?:{'|'.join(forms)})"


_VEHICLE = r"(?:vehicle|car|truck|bus|van|automobile)s?"
_PICTURE = r"(?:image|picture|photo|photograph)"
_ROAD = r"(?:road|street|lane|highway|intersection|junction|parking lot)s?"
_CANNOT = r"(?:cannot|can['’]t|can not|could not|couldn['’]t)"
_FIND_OUT = r"(?:describe|determine|identify|discern|recogni[sz]e|make out|tell)"
_FOUND_OUT = r"(?:described|determined|identified|discerned|recogni[sz]ed|distinguished|made out|seen)"
_UNUSABLE = (
    r"(?:too|extremely|completely|entirely|totally|fully|so|almost|nearly|pitch) "
    r"(?:dark|black|white|bright|blurr(?:y|ed)|unclear|low|poor|(?:over|under)exposed|out of focus)"
)
_INSIDE = r"(?:interior|inside|into|through|driver|seats|cabin|cargo|load)"
# What may follow "no vehicle", unlike the noun of "no vehicle badge".
_AT_ALL = (
    r" (?:is|are|was|were|has|can|could|appears?|present|visible|seen|shown|here|exists?|in|to|or|but|at all"
    rf"|on (?:the|this) (?:\w+ )?{_ROAD})\b"
)
_END = r"(?:[.,;]|$)"
_NOT_ONE = (
    r"(?:there (?:is|are) no|there (?:is|are)(?:n['’]t| not) (?:an?|any)|(?:shows?|contains?|see) no|without any)"
)

DECLINED = re.compile(
    _any_of(
        r"^sorry\b",
        r"\bas an? (?:ai|language model|assistant)\b",
        r"\bi(?:['’]m| am) (?:sorry|unable|not able|afraid)\b",
        r"\bi apologi[sz]e\b",
        rf"\bi (?:{_CANNOT}|do not|don['’]t) (?:\w+ )?"
        r"(?:see|view|describe|assist|help|identify|provide|comply|analy[sz]e|access|determine|process)\b",
        rf"\b(?:{_CANNOT}|(?:difficult|hard) to) {_FIND_OUT}\b",
        rf"\b(?:unable|(?:not |im)possible) to (?:see|view|provide|assist|process|analy[sz]e|{_FIND_OUT})\b"
        rf"(?! (?:\w+ ){{0,2}}{_INSIDE}\b)",
        r"\b(?:please|kindly) (?:provide|upload|share|attach) (?:an?|the|your)\b",
        rf"\bno {_PICTURE} (?:was|is|has been) (?:provided|attached|uploaded|visible|shown|given)\b",
        rf"\b{_PICTURE} (?:was|is) not (?:provided|attached|available|visible)\b",
        rf"\b{_PICTURE} (?:quality )?(?:is|was|appears|seems)(?: to be)? (?:\w+ )?"
        rf"(?:blank|empty|corrupted|{_UNUSABLE})\b",
        rf"\b(?:not|n['’]t) (?:\w+ )?(?:show|contain|depict|include) (?:an?|any|the) (?:\w+ )?{_VEHICLE}"
        rf"(?:{_AT_ALL}|{_END})",
        rf"\b(?:no|{_NOT_ONE}) (?:(?!other\b|further\b)\w+ )?{_VEHICLE}{_AT_ALL}",
        rf"\b{_NOT_ONE} (?:(?!other\b|further\b)\w+ )?{_VEHICLE}{_END}",
        rf"\b(?:the|this|any|a) {_VEHICLE} (?:itself |in (?:the|this) \w+ )?(?:{_CANNOT} be {_FOUND_OUT}"
        r"|(?:is|are) (?:too (?:far|small|dark|distant|blurr(?:y|ed))|(?:not|barely|hardly) (?:clearly )?"
        r"(?:visible|seen|shown|present|discernible|recogni[sz]able|identifiable|distinguishable)))\b",
        rf"\b(?:{_VEHICLE}['’]s|its) (?:colou?r|type|features|details)(?: \w+){{0,4}} {_CANNOT} be {_FOUND_OUT}\b",
        rf"\bno details? (?:can|could) be {_FOUND_OUT}\b",
        r"\bnothing (?:(?:can|could) be|is) (?:seen|visible|made out|shown)\b",
        rf"\bempty (?:\w+ )?{_ROAD}\b|\b{_ROAD} (?:is|are) empty\b",
        rf"\b{_PICTURE} shows (?:only|just|nothing but) (?:an?|the) (?:\w+ ){{0,2}}{_ROAD}\b",
    ),
    re.IGNORECASE,
)
# Of a thing or two a caption may say that they are not seen; what says it more often describes nothing.
UNSEEN_THING = re.compile(
    _any_of(
        r"\bnot (?:\w+ly )?(?:visible|seen|shown|discernible|identifiable|distinguishable|known)\b",
        rf"\b{_CANNOT} be {_FOUND_OUT}\b",
        r"\b(?:invisible|unseen|unknown|unidentified|unidentifiable|undetermined|indistinct|n/a)\b",
    ),
    re.IGNORECASE,
)
MOST_UNSEEN_THINGS = 2

_SIDE = r"(?:front|rear|back|side|left|right|upper|top)"
_PART = (
    r"(?:windows?|wheels?|tires?|rims?|doors?|mirrors?|(?:head|tail)?lights?|(?:head|tail)?lamps?|roof|vehicle|car|truck"
    r"|bus|parts?|areas?|sections?|details?|handles?|panels?|glass)"
)
_NAMING = rf"(?:the|its|this|that|any|all|both|each|of|and|or|vehicle['’]s|car['’]s|{_SIDE}|{_PART})"
_SEEN = (
    r"(?:visible|seen|shown|present|available|applicable|provided|described|specified|mentioned|determined|discern[ai]ble"
    r"|identifiable|distinguishable|clear|known|in (?:(?:the|this) )?(?:view|sight|frame|picture|image))"
)
_AWAY = (
    r"(?:hidden|unseen|invisible|occluded|obscured|obstructed|out of (?:view|sight|frame|shot)|cropped(?: out)?|cut off"
    r"|unknown|unclear|undetermined|unavailable|unidentified|unidentifiable|indistinct|unspecified)"
)
_NOT_SEEN = _any_of(
    rf"not (?:\w+ly )?(?:be )?{_SEEN}",
    rf"(?:isn|aren|wasn|weren)['’]t (?:\w+ly )?{_SEEN}",
    rf"{_CANNOT} (?:\w+ly )?be (?:\w+ly )?{_FOUND_OUT}",
    _AWAY,
)
_WHERE = (
    rf"(?: (?:here|(?:in|from|at|by|on|due to|because of|{_SIDE}) (?:\w+ )*"
    rf"(?:view|viewpoint|angle|perspective|picture|image|photo|frame|camera|shot|shadow|glare|behind|{_SIDE})|{_SIDE}))?"
)
UNSEEN = re.compile(
    _any_of(
        rf"(?:n ?/? ?a|null|nil|empty|blank|nothing|none|no)(?: (?:is |are |can be )?{_SEEN})?",
        rf"(?:{_NAMING} )*(?:(?:is|are|was|were) )?(?:(?:completely|fully|entirely|totally|currently) )?{_NOT_SEEN}",
        rf"(?:{_CANNOT} see|unable to see|no (?:\w+ )?view of)(?: {_NAMING})*",
        r"no (?:information|description|details?)(?: available| given| visible)?",
        rf"no (?:{_SIDE} )*{_PART} (?:is |are |can be )?{_SEEN}",
        rf"no visible (?:{_SIDE} )*{_PART}",
    )
    + _WHERE,
    re.IGNORECASE,
)
PUNCTUATION = re.compile(r"[\s.,:;!?()\"–—-]+")


def declined(text: str) -> str | None:
    """The words by which ``text`` says that there is nothing it could describe, or None."""
    found = DECLINED.search(text)
    if found is not None:
        return found.group()
    unseen = [thing.group() for thing in UNSEEN_THING.finditer(text)]
    return ", ".join(unseen) if len(unseen) > MOST_UNSEEN_THINGS else None


def is_unseen(phrase: str) -> bool:
    """Whether ``phrase``, which should describe a part, says no more than that the part is not seen."""
    if not any(c.isalpha() for c in phrase):
        return True
    return UNSEEN.fullmatch(PUNCTUATION.sub(" ", phrase).strip()) is not None
