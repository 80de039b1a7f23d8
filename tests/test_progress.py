"""What a long run says on a stderr that is no terminal."""

import re

import pytest

from pfcvr.progress import Progress, quiet_transformers


def test_a_last_row_that_was_just_told_is_not_told_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("pfcvr.progress.time.monotonic", lambda: next(clock))
    with Progress("train", 2, unit="step") as progress:
        progress.advance()
        progress.advance()
    said = capsys.readouterr().err.splitlines()
    assert [re.match(r"train: (\d) of 2", line)[1] for line in said] == ["1", "2"]


def test_the_last_rows_are_told_however_soon_they_came(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", 5, done=3, unit="step") as progress:
        progress.advance(2)
    assert capsys.readouterr().err.startswith("train: 5 of 5, ")
    with Progress("train", 5, done=5, unit="step"):
        pass
    assert capsys.readouterr().err == "", "nothing was left to do"


def test_transformers_is_as_talkative_afterwards_as_it_was() -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    with quiet_transformers():
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.ERROR, False)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
