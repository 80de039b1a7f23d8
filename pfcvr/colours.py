"""The colours of parts, in whatever picture they are drawn: six that readers with any colour vision tell apart.

From the palette of Okabe and Ito (2008), whose yellow is too pale for lines and letters on white.
"""

from pfcvr.records import Part

PART_COLOURS: dict[Part, str] = {
    "windows": "#0072b2",
    "wheels": "#d55e00",
    "doors": "#009e73",
    "mirrors": "#cc79a7",
    "lights": "#e69f00",
    "roof": "#56b4e9",
}
