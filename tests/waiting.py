"""Waiting for another process in a test."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool]) -> None:
    """Come back when ``condition`` holds; an AssertionError after 30 s."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s in vain"
        time.sleep(0.05)
