"""Where a workspace stands, also where one of its stages is damaged."""

import json

from pfcvr.cli import data_app, run
from pfcvr.config import MergeConfig
from pfcvr.pipeline import merge
from pfcvr.pipeline.status import share_edited, workspace_status
from pfcvr.stage import RunOptions


def test_damaged_manifest_is_named_and_the_other_stages_are_still_told(whole) -> None:
    (whole.workspace.folder("caption") / "manifest.json").write_text("{cut")
    rows = {row.stage: row for row in workspace_status(whole.workspace)}
    assert rows["caption"].state == "damaged"
    assert "caption/manifest.json: damaged manifest" in rows["caption"].problem
    assert {stage: row.state for stage, row in rows.items() if stage != "caption"} == {
        "import": "sealed",
        "select": "absent",
        "parts": "sealed",
        "merge": "absent",
        "split": "sealed",
    }


def test_stages_made_from_a_damaged_one_keep_their_books_and_say_what_cannot_be_told(whole) -> None:
    (whole.workspace.folder("import") / "manifest.json").write_text("{cut")
    rows = {row.stage: row for row in workspace_status(whole.workspace)}
    assert (rows["split"].state, rows["split"].kept) == ("sealed", 5)
    assert rows["split"].problem.startswith("whether it is up to date cannot be told: ")
    assert "import/manifest.json" in rows["split"].problem


def test_command_prints_the_problem_below_the_table(whole, capsys) -> None:
    (whole.workspace.folder("parts") / "manifest.json").write_text("[]")
    assert run(data_app, "pfcvr-data", ["status", "-w", str(whole.workspace.root)]) == 0
    out = capsys.readouterr().out
    assert "parts    damaged" in out
    assert "parts/manifest.json: damaged manifest" in out.splitlines()[-1]
    assert run(data_app, "pfcvr-data", ["status", "-w", str(whole.workspace.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][3]["state"] == "damaged"


def test_share_of_images_edited_by_people_is_told(whole, capsys) -> None:
    assert share_edited(workspace_status(whole.workspace)) is None
    path = whole.source / "fixed.jsonl"
    rows = [{"image_id": image.image_id, "caption": "New words."} for image in whole.images[:7]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    merge.run(whole.workspace, MergeConfig(file=path), RunOptions(quiet=True))
    assert run(data_app, "pfcvr-data", ["status", "-w", str(whole.workspace.root)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "50.0% of the images have an edit by people"
