"""The commands of both programs that publish on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from pfcvr import config as settings
from pfcvr.cli_output import DebugFlag, JsonFlag, WorkspaceDir, emit, new_app
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

data_app, model_app = new_app(""), new_app("")
RepositoryName = Annotated[str, typer.Argument(metavar="REPO", help="Repository on the Hub, OWNER/NAME.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write what would be published into a folder; send nothing.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier publication, here and in the repository.")
]


@data_app.command("push")
def push_data(
    repository: RepositoryName,
    workspace: WorkspaceDir,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="Publish pixels too, in a private, gated repository; see --right.")
    ] = False,
    right: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Who allowed you to publish the images, and how.")
    ] = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Publish the data set on the Hub: annotations alone, unless the sources' terms allow their images.

    The access token is that of hf auth login, or HF_TOKEN. Run it again to continue.

    Example: pfcvr-data push -w work lab/vehicles --dry-run
    """
    from pfcvr.pipeline import push as stage

    values = {"repository": repository, "with_images": with_images, "right": right}
    values |= {"dry_run": dry_run, "overwrite": overwrite}
    config = settings.parse(settings.PushDataConfig, values, "pfcvr-data push")
    opened = Workspace(workspace)
    with opened.lock():
        summary = stage.run(opened, config, RunOptions())
    emit(summary.as_dict(), summary.text(), as_json)


@model_app.command("push")
def push_model(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    repository: RepositoryName,
    private: Annotated[bool, typer.Option("--private", help="For the owner's eyes alone.")] = False,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="NAME", help="Licence of the weights: mit, cc-by-nc-4.0, ...")
    ] = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Publish a trained model on the Hub, with a card, its recipe and what it reached.

    The access token is that of hf auth login, or HF_TOKEN. Run it again to continue.

    Example: pfcvr push run lab/vehicle-search --private
    """
    from pfcvr.model import push as publishing

    values = {"run": run, "repository": repository, "private": private, "licence": licence}
    values |= {"dry_run": dry_run, "overwrite": overwrite}
    result = publishing.push(settings.parse(settings.PushModelConfig, values, "pfcvr push"))
    emit(result.as_dict(), result.text(), as_json)
