"""Colours of curves and parts that readers with any colour vision tell apart (the palette of Okabe and Ito, 2008)."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#888888")
"""Blue, vermilion, green, purple, orange, sky; then black, and a grey in place of a yellow too pale for lines."""
