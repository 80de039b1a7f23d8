"""With which programs, on which machine and when a run was trained: ``RUN/telemetry.jsonl``, a line a start and an end.

None of it is part of the result, so a continued run has more lines here and the same bytes everywhere else.
"""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import gmtime, strftime, time
from typing import Any

import torch

from pfcvr.errors import CheckpointError
from pfcvr.files import canonical_json
from pfcvr.jsonl import cut_torn_line, whole_lines
from pfcvr.model.device import cores

NAME = "telemetry.jsonl"
PROGRAMS = ("pfcvr", "torch", "transformers", "accelerate", "datasets")


def note_start(run: Path, step: int, device: torch.device, processes: int) -> None:
    """Training starts, or goes on, after ``step`` steps."""
    programs = {"python": platform.python_version(), **{name: _version(name) for name in PROGRAMS}}
    _append(run, "started", step, programs=programs, device=_device_name(device), processes=processes)


def note_end(run: Path, step: int) -> None:
    """All steps are done."""
    _append(run, "finished", step)


def read_telemetry(run: Path) -> list[dict[str, Any]]:
    """The lines of a run, in order; none of a run of an earlier version, or of one on the Hub.

    Raises CheckpointError where a line is damaged.
    """
    try:
        return [json.loads(line) for _, line in whole_lines(run / NAME)]
    except ValueError:
        raise CheckpointError(f"{run / NAME}: damaged; remove the file, nothing depends on it") from None


def telemetry_text(lines: Sequence[dict[str, Any]]) -> str | None:
    """What ``lines`` say, in a sentence: the programs and the machine of the last start, and the times."""
    starts = [line for line in lines if line["event"] == "started"]
    if not starts:
        return None
    programs = ", ".join(f"{name} {number}" for name, number in starts[-1]["programs"].items())
    machine = starts[-1]["device"] + (f", {starts[-1]['processes']} processes" if starts[-1]["processes"] > 1 else "")
    again = f", {len(starts)} starts" if len(starts) > 1 else ""
    ends = [line["time"] for line in lines if line["event"] == "finished"]
    until = f" to {_clock(ends[-1])}" if ends else ""
    return f"trained with {programs} on {machine}; from {_clock(starts[0]['time'])}{until} UTC{again}"


def _append(run: Path, event: str, step: int, **values: Any) -> None:
    cut_torn_line(run / NAME)
    line = {"event": event, "time": round(time(), 3), "step": step, **values}
    with (run / NAME).open("a", encoding="utf-8") as file:
        file.write(canonical_json(line) + "\n")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a folder that is on the path, for example
        return "(not installed)"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {cores()} cores"


def _clock(seconds: float) -> str:
    return strftime("%Y-%m-%d %H:%M", gmtime(seconds))
