"""Words of sentences for people."""

import re
from collections.abc import Iterator
from typing import Any

HASH = re.compile(r"[0-9a-f]{64}")
DIGITS_SHOWN = 8


def amount(number: int, noun: str) -> str:
    """``number`` of what ``noun`` names, in the singular where it is one: ``1 image``, ``2,000 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What two fingerprints do not share: ``seed (1 before, 2 now), caption (none before, 1f2e3d4c now)``.

    A fingerprint is a tree; what groups its values at the top is not told.
    """
    return ", ".join(
        f"{name} ({_told(before)} before, {_told(now)} now)" for name, before, now in _differing(found, wanted, "", 0)
    )


def _differing(found: dict[str, Any], wanted: dict[str, Any], above: str, depth: int) -> Iterator[tuple[str, Any, Any]]:
    """Path, value before and value now of each leaf that differs."""
    for key in {**wanted, **found} if depth == 0 else sorted({*found, *wanted}):
        before, now = found.get(key), wanted.get(key)
        if before == now:
            continue
        if (before or now) and isinstance(before, dict | None) and isinstance(now, dict | None):
            yield from _differing(before or {}, now or {}, f"{above}{key}." if depth else "", depth + 1)
        else:
            yield f"{above}{key}", before, now


def _told(value: Any) -> str:
    """Of a hash the start is enough."""
    if value is None:
        return "none"
    return value[:DIGITS_SHOWN] if isinstance(value, str) and HASH.fullmatch(value) else str(value)
