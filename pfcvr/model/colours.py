"""Colours of curves: those of the parts, which readers with any colour vision tell apart, then black and a grey."""

from pfcvr.colours import PART_COLOURS

COLOURS = (*PART_COLOURS.values(), "#000000", "#888888")
