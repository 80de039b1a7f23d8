"""A stage over whole numbers, which keeps the even ones and rejects the others as ``odd``."""

from folders import files_of

from pfcvr.records import Rejected, Selected
from pfcvr.stage import RunOptions, StagePlan
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)


def keep_even(number: int) -> Selected | Rejected:
    key = f"v/{number:04d}"
    if number % 2:
        return Rejected(stage="select", subject=key, reason="odd")
    return Selected(image_id=key, vehicle_id="v")


def plan(count: int = 20, work=keep_even, **changes) -> StagePlan:
    values = {
        "name": "select",
        "kind": Selected,
        "settings": {"count": count},
        "inputs": {"import": "abc"},
        "rows": lambda: range(count),
        "key": lambda number: f"v/{number:04d}",
        "work": work,
        "total": count,
        "workers": 2,
        "normal_reasons": frozenset({"odd"}),
    }
    return StagePlan(**(values | changes))


def sealed_bytes(workspace: Workspace) -> dict[str, bytes]:
    return files_of(workspace.folder("select"), but=("telemetry.jsonl",))
