"""A run says with which programs, on which machine and when it was trained, outside what must be the same again."""

import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from pfcvr.config import TrainConfig
from pfcvr.errors import CheckpointError
from pfcvr.model import run_telemetry
from pfcvr.model.run_info import run_info, run_info_text
from pfcvr.model.run_telemetry import note_end, note_start, read_telemetry, telemetry_text
from pfcvr.model.train import train

CPU = torch.device("cpu")


def test_a_run_names_versions_device_and_times_and_info_shows_them(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path
) -> None:
    before = time.time() - 1
    short = ("schedule.length=2", "schedule.warmup=1")
    config = TrainConfig(data=str(painted), out=tmp_path / "run", overrides=(*small_model, *short), workers=0)
    train(config, quiet=True)
    start, end = read_telemetry(config.out)
    assert (start["event"], start["step"], end["event"], end["step"]) == ("started", 0, "finished", 2)
    assert before <= start["time"] <= end["time"] <= time.time() + 1
    assert start["programs"]["torch"] == version("torch")
    assert start["programs"]["pfcvr"] == version("pfcvr")
    facts = run_info(config.out)
    assert facts["telemetry"] == [start, end]
    assert f"torch {version('torch')}, transformers {version('transformers')}" in run_info_text(facts)
    assert "torch" not in json.loads((config.out / "run.json").read_text()), "the manifest is the same everywhere"
    train(config, quiet=True)
    assert len(read_telemetry(config.out)) == 2, "nothing was trained"


def test_the_sentence_names_the_last_machine_the_whole_time_and_the_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = iter((0, 3600 * 5, 3600 * 7))
    monkeypatch.setattr(run_telemetry, "time", lambda: 1_767_225_600.0 + next(hours))
    monkeypatch.setattr(run_telemetry, "cores", lambda: 3)
    note_start(tmp_path, 0, CPU, 1)
    only_start = telemetry_text(read_telemetry(tmp_path))
    assert only_start.endswith(" on CPU, 3 cores; from 2026-01-01 00:00 UTC")
    note_start(tmp_path, 40, CPU, 2)
    note_end(tmp_path, 60)
    both = telemetry_text(read_telemetry(tmp_path))
    assert both.endswith(" on CPU, 3 cores, 2 processes; from 2026-01-01 00:00 to 2026-01-01 07:00 UTC, 2 starts")
    assert f"torch {version('torch')}, transformers" in both
    assert telemetry_text([]) is None


def test_a_line_that_a_kill_left_half_written_is_dropped(tmp_path: Path) -> None:
    note_start(tmp_path, 0, CPU, 1)
    path = tmp_path / "telemetry.jsonl"
    path.write_bytes(path.read_bytes() + b'{"event": "fini')
    assert [line["event"] for line in read_telemetry(tmp_path)] == ["started"]
    note_end(tmp_path, 3)
    assert [line["event"] for line in read_telemetry(tmp_path)] == ["started", "finished"]


def test_a_run_of_an_earlier_version_has_none_and_a_damaged_file_is_told(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "telemetry.jsonl").unlink()
    facts = run_info(tmp_path / "run")
    assert facts["telemetry"] == []
    assert "trained with" not in run_info_text(facts)
    (tmp_path / "run" / "telemetry.jsonl").write_text("what?\n")
    with pytest.raises(CheckpointError, match=r"telemetry\.jsonl: damaged; remove the file, nothing depends on it"):
        run_info(tmp_path / "run")


def test_a_package_that_is_only_on_the_path_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_telemetry, "PROGRAMS", ("pfcvr-of-elsewhere",))
    note_start(tmp_path, 0, CPU, 1)
    assert read_telemetry(tmp_path)[0]["programs"]["pfcvr-of-elsewhere"] == "(not installed)"
