"""The commands of ``pfcvr-data`` that write data sets: out of a workspace, or out of published annotations."""

from pathlib import Path
from typing import Annotated

import typer

from pfcvr import config as settings
from pfcvr.cli_output import DebugFlag, JsonFlag, OverwriteFlag, WorkspaceDir, emit, new_app
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

app = new_app("")


@app.command()
def export(
    workspace: WorkspaceDir,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    out_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="hf (a Hugging Face data set), annotations (that without pixels), official (what the released PFCVR "
            "code reads), coco, or webdataset.",
        ),
    ] = "hf",
    keep_val: Annotated[
        bool, typer.Option("--keep-val", help="Of official: val stays val and test stays test.")
    ] = False,
    copies: Annotated[
        bool, typer.Option("--copies", help="Of official: a dark, a light and a noisy copy of every train image.")
    ] = False,
    copies_seed: Annotated[int, typer.Option(help="Of official: seed of the noise.")] = 0,
    images: Annotated[
        str, typer.Option(help="Of coco: copy, link (hard links) or reference (named by their path in the source).")
    ] = "copy",
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Write the data set: for pfcvr and load_dataset, for publication, or for other programs.

    Example: pfcvr-data export -w work dataset
    """
    from pfcvr.pipeline import export as stage

    values = {
        "out": out,
        "format": out_format,
        "keep_val": keep_val,
        "copies": copies,
        "copies_seed": copies_seed,
        "images": images,
    }
    config = settings.parse(settings.ExportConfig, values, "pfcvr-data export")
    opened = Workspace(workspace)
    with opened.lock():
        summary = stage.run(opened, config, RunOptions(overwrite))
    emit(summary.as_dict(), summary.text(), as_json)


@app.command()
def rebuild(
    annotations: Annotated[Path, typer.Argument(help="Folder of published annotations.")],
    images: Annotated[Path, typer.Option(help="Root of your own copy of the images, in any layout.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    accept_reencoded: Annotated[
        bool, typer.Option("--accept-reencoded", help="Also take pictures that look the same and have the same size.")
    ] = False,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Join published annotations with your own copy of the images; says of each image what was found.

    Example: pfcvr-data rebuild annotations --images VERI-Wild --out dataset
    """
    from pfcvr.pipeline import rebuild as stage

    values = {"annotations": annotations, "images": images, "out": out, "accept_reencoded": accept_reencoded}
    config = settings.parse(settings.RebuildConfig, values, "pfcvr-data rebuild")
    summary = stage.run(config, RunOptions(overwrite))
    emit(summary.as_dict(), summary.text(), as_json)
