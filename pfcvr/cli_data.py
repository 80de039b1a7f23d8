"""The commands of ``pfcvr-data``: from a vehicle image collection to a published data set."""

import importlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pfcvr import config as settings
from pfcvr.cli_output import (
    DebugFlag,
    JsonFlag,
    OverwriteFlag,
    RetryReason,
    SeedNumber,
    WorkspaceDir,
    emit,
    new_app,
)
from pfcvr.stage import RunOptions, StageSummary
from pfcvr.store import Workspace
from pfcvr.wording import amount

app = new_app("Turn a vehicle image collection into a captioned, part-annotated, audited data set.")


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    identities: Annotated[int, typer.Option(help="Number of vehicles.")] = 300,
    images_per_identity: Annotated[int, typer.Option(help="Images of each vehicle.")] = 4,
    size: Annotated[int, typer.Option(help="Longer side of the images in pixels, 32 to 384.")] = 128,
    seed: SeedNumber = 0,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Render vehicles with known truth: a VERI-Wild tree, captions.jsonl and parts.coco.json.

    Example: pfcvr-data synth vehicles --identities 300 --images-per-identity 4 --size 128
    """
    from pfcvr.pipeline.synth import generate
    from pfcvr.progress import Progress

    values = {"identities": identities, "images_per_identity": images_per_identity, "size": size, "seed": seed}
    config = settings.parse(settings.SynthConfig, values, "pfcvr-data synth")
    with Progress("synth", identities * images_per_identity) as progress:
        summary = generate(out, config, progress=progress.advance)
    seen = f"{amount(summary.images, 'image')} of {amount(summary.vehicles, 'vehicle')}"
    text = f"{summary.path}: {seen} from {amount(summary.cameras, 'camera')}"
    emit(asdict(summary), text, as_json)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="Folder or captions file to read.")],
    workspace: WorkspaceDir,
    source_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="auto, veri-wild, veri-wild-2, veri-776, vehicleid, vric, t2i-veri, t2i-verw, mvp, pfcvr (an export, "
            "or its name on the Hub), reid-json (a captions file) or folder (one folder for each vehicle).",
        ),
    ] = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Fail on any surprise in the source.")] = False,
    overwrite: OverwriteFlag = False,
    retry: RetryReason = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Read an image collection into a workspace; unreadable images are set aside with a reason.

    Example: pfcvr-data import VERI-Wild -w work
    """
    values = {"source": source, "format": source_format, "strict": strict}
    config = settings.parse(settings.ImportConfig, values, "pfcvr-data import")
    from pfcvr.pipeline.import_ import report, workspace_for

    options = RunOptions(overwrite, retry)
    run_and_print("import_", workspace_for(config, workspace), config, options, as_json, report)


@app.command()
def select(
    workspace: WorkspaceDir,
    identities: Annotated[int | None, typer.Option(help="How many vehicles to keep.")] = None,
    images: Annotated[
        int | None, typer.Option(help="How many images to keep, as near as whole vehicles allow.")
    ] = None,
    min_images: Annotated[int, typer.Option(help="Leave out vehicles with fewer images.")] = 1,
    min_cameras: Annotated[int, typer.Option(help="Leave out vehicles seen by fewer cameras.")] = 1,
    listed: Annotated[
        Path | None, typer.Option("--list", help="Take the images or vehicles named in this file.")
    ] = None,
    seed: SeedNumber = 0,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Choose the vehicles of the data set by a rule and a seed; says what was dropped and why.

    Example: pfcvr-data select -w work --identities 1796 --images 14668 --min-images 3 --seed 1
    """
    limits = {"identities": identities, "images": images, "min_images": min_images, "min_cameras": min_cameras}
    values = {**limits, "list": listed, "seed": seed}
    config = settings.parse(settings.SelectConfig, values, "pfcvr-data select")
    from pfcvr.pipeline.select import report

    run_and_print("select", Workspace(workspace), config, RunOptions(overwrite), as_json, report)


@app.command()
def caption(
    workspace: WorkspaceDir,
    captioner: Annotated[
        str,
        typer.Option(
            help="import (from --captions), openai (a server at --base-url; its key, if it wants one, in "
            "OPENAI_API_KEY), vllm (servers started for the run), transformers (a small model in this process) or "
            "template (from metadata; to try the pipeline, not to train on)."
        ),
    ],
    captions: Annotated[
        Path | None, typer.Option(help="JSON, JSONL, CSV or TSV that names images; none: the one imported with them.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model that answers; may be left out if a server has one.")] = None,
    prompt: Annotated[
        str, typer.Option(help="vehicle-json, vehicle-text, or the path of a prompt file.")
    ] = "vehicle-json",
    concurrency: Annotated[int, typer.Option(help="Requests in flight at a time.")] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds that one request may take.")] = 120.0,
    limit: Annotated[int | None, typer.Option(help="Caption so many images and leave the rest pending.", min=1)] = None,
    python: Annotated[Path | None, typer.Option(help="Interpreter that has vLLM; none: this one.")] = None,
    replicas: Annotated[int, typer.Option(help="vLLM servers to start; they share the GPUs.")] = 1,
    server_args: Annotated[str, typer.Option(help="Options of vLLM, as in: '--max-model-len 4096'.")] = "",
    device: Annotated[str, typer.Option(help="Where transformers computes: auto, cpu or cuda.")] = "auto",
    seed: SeedNumber = 0,
    overwrite: OverwriteFlag = False,
    retry: RetryReason = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Give every image its sentences.

    Example: pfcvr-data caption -w work --captioner import --captions captions.jsonl
    """
    values = {
        "captioner": captioner,
        "captions": captions,
        "base_url": base_url,
        "model": model,
        "prompt": prompt,
        "concurrency": concurrency,
        "timeout": timeout,
        "python": python,
        "replicas": replicas,
        "server_args": server_args,
        "device": device,
        "seed": seed,
    }
    config = settings.parse(settings.CaptionConfig, values, "pfcvr-data caption")
    from pfcvr.pipeline.caption import review_line

    options = RunOptions(overwrite, retry, limit=limit)
    run_and_print("caption", Workspace(workspace), config, options, as_json, review_line)


@app.command()
def parts(
    workspace: WorkspaceDir,
    detector: Annotated[
        str, typer.Option(help="import (from --annotations), grounding-dino, groundingdino, or none (see sam3).")
    ] = "import",
    segmenter: Annotated[
        str, typer.Option(help="auto (what fits the detector), none (boxes alone), sam, segment-anything or sam3.")
    ] = "auto",
    annotations: Annotated[
        Path | None, typer.Option(help="COCO file, or a folder of MVP masks; none: those of the source.")
    ] = None,
    detector_model: Annotated[str | None, typer.Option(help="Weights: a name on the Hub, or a path.")] = None,
    segmenter_model: Annotated[str | None, typer.Option(help="Weights: a name on the Hub, or a path.")] = None,
    phrases: Annotated[Path | None, typer.Option(help="TOML file of phrases and thresholds; none: ours.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Least score; none: that of the phrases file.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto (bfloat16 on a GPU), float32 or bfloat16.")] = "auto",
    batch: Annotated[int, typer.Option(help="Images that go through a model together.")] = 4,
    python: Annotated[Path | None, typer.Option(help="Interpreter that has groundingdino-py; none: this one.")] = None,
    detector_config: Annotated[
        str, typer.Option(help="Of groundingdino: GroundingDINO_SwinT_OGC or GroundingDINO_SwinB.")
    ] = "GroundingDINO_SwinT_OGC",
    text_encoder: Annotated[str, typer.Option(help="BERT of groundingdino: a name, or a path.")] = "bert-base-uncased",
    grid: Annotated[str, typer.Option(help="Patch grid, rows x columns.")] = "24x24",
    coverage: Annotated[float, typer.Option(help="Share of a cell that a part must cover to own it.")] = 0.5,
    overwrite: OverwriteFlag = False,
    retry: RetryReason = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Find windows, wheels, doors, mirrors, lights and roof, as masks and as patch grids.

    Example: pfcvr-data parts -w work --detector grounding-dino --segmenter sam
    """
    from pfcvr.pipeline.part_report import report_text

    values = {
        "detector": detector,
        "segmenter": segmenter,
        "annotations": annotations,
        "detector_model": detector_model,
        "segmenter_model": segmenter_model,
        "phrases": phrases,
        "threshold": threshold,
        "device": device,
        "precision": precision,
        "batch": batch,
        "python": python,
        "detector_config": detector_config,
        "text_encoder": text_encoder,
        "grid": {**settings.grid_sizes(grid), "coverage": coverage},
    }
    config = settings.parse(settings.PartsConfig, values, "pfcvr-data parts")
    options = RunOptions(overwrite, retry)
    run_and_print("parts", Workspace(workspace), config, options, as_json, lambda done: report_text(done.notes))


@app.command()
def split(
    workspace: WorkspaceDir,
    ratio: Annotated[float, typer.Option(help="Share of the images that goes to train and val.")] = 0.7,
    val: Annotated[float, typer.Option(help="Share of the train identities carved out for validation.")] = 0.1,
    from_source: Annotated[
        bool, typer.Option("--from-source", help="Take the split that the source gives; nothing is drawn.")
    ] = False,
    seed: SeedNumber = 0,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Divide the vehicles, never the images of one, into train, val and test.

    Example: pfcvr-data split -w work --ratio 0.7 --seed 1
    """
    values = {"ratio": ratio, "val": val, "seed": seed, "from_source": from_source}
    config = settings.parse(settings.SplitConfig, values, "pfcvr-data split")
    from pfcvr.pipeline.split import report

    run_and_print("split", Workspace(workspace), config, RunOptions(overwrite), as_json, report)


def run_and_print(
    module: str,
    workspace: Workspace,
    config: settings.Settings,
    options: RunOptions,
    as_json: bool,
    report: Callable[[StageSummary], str] = lambda summary: "",
) -> None:
    """Run one stage under the workspace lock and print its books, with a ``report`` below for people."""
    stage = importlib.import_module(f"pfcvr.pipeline.{module}")
    with workspace.lock():
        summary: StageSummary = stage.run(workspace, config, options)
    text = "\n".join(filter(None, [summary.text(), report(summary)]))
    emit(asdict(summary) | {"workspace": str(workspace.root)}, text, as_json)
