"""The commands of ``pfcvr``: train, evaluate and search."""

from pathlib import Path
from typing import Annotated

import typer

from pfcvr import config as settings
from pfcvr.cli_output import DebugFlag, JsonFlag, emit, new_app, warn
from pfcvr.errors import UsageError

app = new_app("Train, evaluate and search with text-to-image vehicle retrieval models.")

DataSet = Annotated[str, typer.Option("--data", help="Exported data set: a folder, or a name on the Hub.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Workers = Annotated[int | None, typer.Option(help="Processes that load images.")]
GradientCheckpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Compute the towers twice and keep less: less memory, slower.")
]
Compiled = Annotated[bool, typer.Option("--compile", help="torch.compile on the layers of the towers.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; by default all cores.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a finished training run, or its name on the Hub.")]


@app.command()
def train(
    data: DataSet,
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished run there is continued.")],
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a TOML file.")] = "tiny",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; repeatable.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="pfcvr, irra (SDM + ID + MLM) or clip (InfoNCE alone); by default pfcvr.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="paper, official (the released code) or extended (ours); by default paper.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="clean: best weights chosen on val; published: on test, as the published tables did.")
    ] = "clean",
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw; by default 0.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Train once a seed, each in a folder of its own in --out.")
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    threads: Threads = None,
    gradient_checkpointing: GradientCheckpointing = False,
    compiled: Compiled = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Train a model; run the same command again to continue after a stop.

    Example: pfcvr train --data dataset --out run --recipe tiny
    """
    from pfcvr.model.seeds import train_seeds
    from pfcvr.model.train import train as train_run

    values = {"data": data, "out": out, "recipe": recipe, "overrides": tuple(overrides or ()), "protocol": protocol}
    values |= {"method": method, "variant": variant, "seed": seed or 0, "device": device, "workers": workers}
    values |= {"threads": threads, "gradient_checkpointing": gradient_checkpointing, "compile": compiled}
    if seed is not None and seeds is not None:
        raise UsageError("pfcvr train: --seed and --seeds were both given; leave out one of them")
    config = settings.parse(settings.TrainConfig, values, "pfcvr train")
    if seeds is None:
        result = train_run(config)
        emit(result.as_dict(), result.text(), as_json)
    else:
        listed = settings.parse(settings.SeedList, {"seeds": seeds}, "pfcvr train --seeds")
        together = train_seeds(config, listed.seeds)
        emit(together.as_dict(), together.text(), as_json)
        if together.diverged:
            raise typer.Exit(1)


@app.command()
def probe(
    data: DataSet,
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a TOML file.")] = "tiny",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; repeatable.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="As in pfcvr train.")] = None,
    variant: Annotated[str | None, typer.Option(help="As in pfcvr train.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    gradient_checkpointing: GradientCheckpointing = False,
    compiled: Compiled = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Say how many pairs at a time fit into the memory of the device: tried on a GPU, extrapolated on the CPU.

    Example: pfcvr probe --data dataset --recipe t2i-verw
    """
    from pfcvr.model.probe import probe as probe_memory

    values: dict[str, object] = {"data": data, "recipe": recipe, "overrides": tuple(overrides or ())}
    values |= {"method": method, "variant": variant, "device": device}
    values |= {"threads": threads, "gradient_checkpointing": gradient_checkpointing, "compile": compiled}
    result = probe_memory(settings.parse(settings.ProbeConfig, values, "pfcvr probe"))
    emit(result.as_dict(), result.text(), as_json)


@app.command("eval")
def evaluate(
    run: RunFolder,
    data: DataSet,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    truth: Annotated[
        Path | None, typer.Option(help="truth.jsonl of rendered vehicles: adds Rank-1 inside families of near-twins.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for pictures: answers, part attention, restored images, guessed words.")
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Measure Rank-1, 5, 10, mAP and mINP: every caption a query, every image of the split the gallery.

    Example: pfcvr eval run --data dataset --split test
    """
    from pfcvr.model import evaluate as evaluation

    values = {"run": run, "data": data, "split": split, "truth": truth, "figures": figures}
    values |= {"device": device, "workers": workers}
    result = evaluation.evaluate(settings.parse(settings.EvalConfig, values, "pfcvr eval"))
    warn(evaluation.warnings(result))
    emit(result, evaluation.text(result), as_json)


@app.command()
def index(
    run: RunFolder,
    data: DataSet,
    out: Annotated[Path, typer.Option(help="Folder of the gallery.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    device: Device = "auto",
    workers: Workers = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Encode the images of a data set once, so that searches need only encode the sentence.

    Example: pfcvr index run --data dataset --out gallery
    """
    from pfcvr.model import gallery

    values = {"run": run, "data": data, "out": out, "split": split, "device": device, "workers": workers}
    result = gallery.index(settings.parse(settings.IndexConfig, values, "pfcvr index"))
    emit(result.as_dict(), result.text(), as_json)


@app.command()
def search(
    source: Annotated[Path, typer.Argument(help="A gallery, or a run together with --data.")],
    text: Annotated[str, typer.Argument(help="The sentence to look for.")],
    data: Annotated[str | None, typer.Option("--data", help="Data set to search in, or to show pictures from.")] = None,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    k: Annotated[int, typer.Option("-k", help="How many answers.")] = 10,
    describes: Annotated[
        str | None, typer.Option(metavar="IMAGE_ID", help="The image the text is about, to mark right and wrong.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="PNG file for a picture of the answer.")] = None,
    device: Device = "auto",
    workers: Workers = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """List the images most like a sentence, best first.

    Example: pfcvr search run "white SUV with roof rails" --data dataset -k 10 --out panel.png
    """
    from pfcvr.model import search as searching

    values = {"source": source, "text": text, "data": data, "split": split, "k": k, "out": out}
    values |= {"image_id": describes, "device": device, "workers": workers}
    answer = searching.search(settings.parse(settings.SearchConfig, values, "pfcvr search"))
    emit(answer.as_dict(), answer.text(), as_json)


@app.command()
def info(run: RunFolder, as_json: JsonFlag = False, debug: DebugFlag = False) -> None:
    """Say what a run was made from and what it reached.

    Example: pfcvr info run
    """
    from pfcvr.model.run_info import run_info, run_info_text

    facts = run_info(run)
    emit(facts, run_info_text(facts), as_json)
