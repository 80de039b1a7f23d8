"""The learning benchmark on a handful of rendered vehicles and a model that is small enough to train at once."""

import json
import sys
from pathlib import Path
from types import ModuleType

import learning as script
import pytest


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch, small_model: tuple[str, ...]) -> ModuleType:
    """The script, with the small model's sizes laid over its recipe."""
    monkeypatch.setattr(script, "LOSSES", (*script.LOSSES, *small_model))
    return script


@pytest.mark.timeout(240)
def test_the_benchmark_makes_its_data_and_measures_every_row(
    learning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path), "--table", "extended", "--identities", "16", "--steps", "2", "--seeds", "5", "--json"]
    monkeypatch.setattr(sys, "argv", ["learning.py", *arguments])
    learning.main()
    report = json.loads(capsys.readouterr().out)
    assert [row["key"] for row in report["rows"]] == ["none", "sync_masks", "part_text", "part_across", "all"]
    assert report["seeds"] == [5]
    assert report["chance"]["rank1"] > 0
    assert all(0 <= row["metrics"]["rank1"]["mean"] <= 100 for row in report["rows"])
    assert (tmp_path / "identities-16" / "steps-2" / "table-extended-test.png").is_file()
