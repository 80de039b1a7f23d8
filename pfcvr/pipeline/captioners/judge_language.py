"""Is a text plain English? By its letters and its commonest words; nothing to download, nothing to guess with."""

import re
import unicodedata

WORD = re.compile(r"[^\W_]+")
_ENGLISH = """
a an the and or but of with without on in at to from by for as is are was were has have it its this that these those
there which while where both each all one two three four five six no not near above below behind under over across along
around between into onto toward towards out off up down seen shows visible
vehicle car sedan suv van truck bus minibus pickup hatchback taxi lorry front rear side left right top lower upper roof
windows window windshield windscreen glass door doors mirror mirrors wheel wheels rims rim lights light headlights
headlight headlamps taillights tail lamps grille bumper hood trunk body paint handles trim spokes rails
black white gray grey silver red blue green yellow brown golden purple cyan dark plain large small round square tinted
chrome
"""
_OTHERS = """
der die das und mit ein eine einem einen einer ist sind auf von vom zum nicht le les une des et avec est dans sur du aux
qui el los las una con del y es sobre por il lo che della delle nel sono o os uma com da dos em na het een van op zijn
ve bir ile och med som ett av på jest oraz się ze kendaraan mobil dengan yang dan
"""
ENGLISH = frozenset(_ENGLISH.split())
OTHERS = frozenset(_OTHERS.split()) - ENGLISH
LATIN_SHARE = 0.9
ENGLISH_SHARE = 0.12  # sentences about cars by people have 0.48 or more
FEWEST_WORDS = 12


def english_problem(text: str) -> str | None:
    """What speaks against ``text`` being English, or None. Short texts are judged by their letters alone."""
    letters = [c for c in text if c.isalpha()]
    latin = sum(c.isascii() or unicodedata.name(c, "").startswith("LATIN") for c in letters)
    if latin < LATIN_SHARE * len(letters):
        return f"{len(letters) - latin} of {len(letters)} letters are not Latin"
    words = WORD.findall(text.lower())
    english, other = sum(word in ENGLISH for word in words), sum(word in OTHERS for word in words)
    if len(words) >= FEWEST_WORDS and english < max(ENGLISH_SHARE * len(words), other):
        return f"{english} of {len(words)} words are common in English, {other} in other languages"
    return None
