"""Files of a stage that were altered, lost or damaged are noticed and named."""

import json
from pathlib import Path

import pytest
from stage.numbers import QUIET, plan, sealed_bytes

from pfcvr.errors import WorkspaceError
from pfcvr.pipeline.status import workspace_status
from pfcvr.records import Selected
from pfcvr.stage import RunOptions, run_stage
from pfcvr.store import Workspace


@pytest.mark.parametrize("name", ["part-00000.jsonl", "rejected.jsonl"])
@pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_bytes(file.read_bytes().split(b"\n", 1)[1])])
def test_a_sealed_stage_whose_files_were_altered_is_made_anew_by_overwrite(workspace: Workspace, name, harm) -> None:
    run_stage(workspace, plan(), QUIET)
    whole = sealed_bytes(workspace)
    harm(workspace.folder("select") / name)
    assert not run_stage(workspace, plan(), RunOptions(overwrite=True, quiet=True)).already_done
    assert sealed_bytes(workspace) == whole
    assert run_stage(workspace, plan(), RunOptions(overwrite=True, quiet=True)).already_done


@pytest.mark.parametrize(
    ("name", "content"), [("draft.json", "{"), ("draft.json", "[]"), ("rejected-running.jsonl", "rubbish\n")]
)
def test_a_damaged_file_of_an_unfinished_stage_is_named_by_run_retry_and_status(
    workspace: Workspace, name: str, content: str
) -> None:
    run_stage(workspace, plan(), QUIET)
    (workspace.folder("select") / "manifest.json").unlink()
    (workspace.folder("select") / "draft.json").write_text(json.dumps({"fingerprint": plan().fingerprint, "total": 20}))
    (workspace.folder("select") / name).write_text(content)
    for act in (
        lambda: run_stage(workspace, plan(), QUIET),
        lambda: run_stage(workspace, plan(), RunOptions(retry="odd", quiet=True)),
    ):
        with pytest.raises(WorkspaceError, match=f"{name}: damaged.*; remove the stage's folder and run it again"):
            act()
    (status,) = (row for row in workspace_status(workspace) if row.stage == "select")
    assert (status.state, f"{name}: damaged" in status.problem) == ("damaged", True)


def test_a_damaged_record_is_named_by_file_and_line(workspace: Workspace) -> None:
    run_stage(workspace, plan(), QUIET)
    part = workspace.folder("select") / "part-00000.jsonl"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([*lines[:2], b"\x00\x00\n", *lines[3:]]))
    with pytest.raises(
        WorkspaceError, match=r"part-00000.jsonl:3: damaged record .*; remove the stage's folder and run it again"
    ):
        list(workspace.records("select", Selected))
