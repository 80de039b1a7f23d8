"""The commands of ``pfcvr-data`` by which people correct what models said."""

from pathlib import Path
from typing import Annotated

import typer

from pfcvr import config as settings
from pfcvr.cli_data import run_and_print
from pfcvr.cli_output import DebugFlag, JsonFlag, WorkspaceDir, new_app
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

app = new_app("")


@app.command()
def merge(
    file: Annotated[
        Path,
        typer.Argument(help="Captions (JSON, JSONL, CSV, TSV), COCO, Label Studio JSON, or CVAT for images 1.1."),
    ],
    workspace: WorkspaceDir,
    editor: Annotated[str | None, typer.Option(help="Who made the edits, if the file does not say it.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Take this file's word over earlier edits.")] = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Lay captions and parts that people corrected over those of the models; no edit is ever lost to a rerun.

    Example: pfcvr-data merge -w work corrected.jsonl
    """
    from pfcvr.pipeline.merge import report_text

    config = settings.parse(settings.MergeConfig, {"file": file, "editor": editor}, "pfcvr-data merge")
    run_and_print("merge", Workspace(workspace), config, RunOptions(overwrite), as_json, report_text)
