"""The files of one stage: those of unfinished work, those that are sealed, and how the first replace the second.

Both may lie in one folder. As long as there is a manifest the sealed stage is the one that counts; work that is to
replace it lies beside it until its first record exists.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pfcvr.errors import WorkspaceError
from pfcvr.files import sync_folder
from pfcvr.jsonl import parse_line, whole_lines
from pfcvr.records import Rejected

MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"
TELEMETRY = "telemetry.jsonl"
RUNNING = "part-running.jsonl"
REJECTED_RUNNING = "rejected-running.jsonl"
DRAFT = "draft.json"
WORKING = (RUNNING, REJECTED_RUNNING, DRAFT)
"""In the order they are removed in: rows without their draft would be taken for those of the next one."""


def read_draft(folder: Path) -> dict[str, Any]:
    """What unfinished work is being made from, ``fingerprint`` and ``total``; empty when there is none.

    ``retried`` lists reasons whose rows were taken up again, so that the command that did so can be run again.
    """
    path = folder / DRAFT
    try:
        draft = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        draft = None
    if not isinstance(draft, dict):
        raise WorkspaceError(f"{path}: damaged, expected a JSON object; remove the stage's folder and run it again")
    return draft


def kept_so_far(folder: Path) -> int:
    """Good rows of unfinished work."""
    return sum(1 for _ in whole_lines(folder / RUNNING))


def rejected_so_far(folder: Path) -> Counter[str]:
    """How many rows of unfinished work were rejected for each reason; raises WorkspaceError for a damaged line."""
    return rejected_reasons(folder / REJECTED_RUNNING)


def rejected_reasons(path: Path) -> Counter[str]:
    """How many rows in a file of rejected ones have each reason; raises WorkspaceError for a damaged line."""
    return Counter(parse_line(line, Rejected, path).reason for _, line in whole_lines(path))


def remove_working_files(folder: Path) -> None:
    """Drop unfinished work; nothing happens where there is none."""
    if folder.exists():
        for name in WORKING:
            (folder / name).unlink(missing_ok=True)
        sync_folder(folder)


def remove_sealed_files(folder: Path) -> None:
    """Drop what is sealed, or half sealed, the manifest first, so that no half-removed stage looks sealed."""
    (folder / MANIFEST).unlink(missing_ok=True)
    sync_folder(folder)
    for path in folder.glob("*.json*"):
        if path.name not in (*WORKING, TELEMETRY):
            path.unlink()
