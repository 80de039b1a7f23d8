"""Words of sentences for people."""


def amount(number: int, noun: str) -> str:
    """``number`` of what ``noun`` names, in the singular where it is one: ``1 image``, ``2,000 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
