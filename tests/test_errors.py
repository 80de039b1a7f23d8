"""What libraries say is told inside a sentence of ours: short, on one line, and never nothing."""

import pytest

from pfcvr.errors import first_line


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("\n  no such weights\nTraceback: ...\n"), "no such weights"),
        (KeyError(), "KeyError"),
        (OSError(" \n"), "OSError"),
        (RuntimeError("x" * 5000), "x" * 300),
    ],
)
def test_an_error_is_told_by_its_first_line_or_its_kind(error: Exception, told: str) -> None:
    assert first_line(error) == told
