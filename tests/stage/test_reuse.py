"""A stage whose images have grown or changed works on the new and changed ones alone, and seals the same bytes."""

from pathlib import Path

import pytest
from folders import files_of

from pfcvr.errors import SealedError
from pfcvr.records import Rejected, Selected
from pfcvr.stage import RunOptions, StagePlan, StageSummary, run_stage
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)
OVERWRITE = RunOptions(overwrite=True, quiet=True)


class Stage:
    """Copies its rows; a row whose vehicle is ``bad`` is rejected. ``worked_on`` are the rows of the last run."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root, create=True)
        self.worked_on: list[str] = []

    def run(self, rows: dict[str, str], options: RunOptions = QUIET, **inputs: str) -> StageSummary:
        self.worked_on = []
        plan = StagePlan(
            name="caption",
            kind=Selected,
            settings={"rule": "copy"},
            inputs={"import": repr(sorted(rows.items())), **inputs},
            rows=lambda: [Selected(image_id=image_id, vehicle_id=vehicle) for image_id, vehicle in rows.items()],
            key=lambda row: row.key,
            work=self._work,
            follows_row=True,
        )
        return run_stage(self.workspace, plan, options)

    def sealed(self) -> dict[str, bytes]:
        return files_of(self.workspace.folder("caption"), but=("telemetry.jsonl",))

    def _work(self, row: Selected) -> Selected | Rejected:
        self.worked_on.append(row.image_id)
        if row.vehicle_id == "bad":
            return Rejected(stage="caption", subject=row.image_id, reason="bad")
        return row


BEFORE = {"a": "1", "b": "bad", "c": "1", "d": "2"}
AFTER = {"a": "1", "b": "bad", "c": "changed", "e": "bad", "f": "3"}


def test_only_new_and_changed_rows_are_worked_on_and_the_bytes_are_those_of_a_fresh_run(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "grown")
    stage.run(BEFORE)
    with pytest.raises(SealedError, match="rerun with --overwrite to work on the new and changed images alone"):
        stage.run(AFTER)
    summary = stage.run(AFTER, OVERWRITE)
    assert sorted(stage.worked_on) == ["c", "e", "f"]
    assert (summary.rows_in, summary.kept, summary.reasons) == (5, 3, {"bad": 2})
    fresh = Stage(tmp_path / "fresh")
    fresh.run(AFTER)
    assert sorted(fresh.worked_on) == sorted(AFTER)
    assert stage.sealed() == fresh.sealed()


def test_another_input_beside_the_images_means_that_all_is_done_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.run(BEFORE, prompt="one")
    with pytest.raises(SealedError, match="rerun with --overwrite to replace it"):
        stage.run(AFTER, prompt="two")
    stage.run(AFTER, OVERWRITE, prompt="two")
    assert sorted(stage.worked_on) == sorted(AFTER)


@pytest.mark.parametrize("altered", ["part-00000.jsonl", "rows.jsonl"])
def test_results_that_were_altered_or_lost_their_digests_are_not_kept(tmp_path: Path, altered: str) -> None:
    stage = Stage(tmp_path)
    stage.run(BEFORE)
    path = stage.workspace.folder("caption") / altered
    if altered == "rows.jsonl":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b'"2"', b'"9"'))
    stage.run(AFTER, OVERWRITE)
    assert sorted(stage.worked_on) == sorted(AFTER)
