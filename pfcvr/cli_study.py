"""The commands of ``pfcvr`` that work on several runs: ablation tables and comparisons."""

from pathlib import Path
from typing import Annotated

import typer

from pfcvr import config as settings
from pfcvr.cli_model import Compiled, DataSet, Device, GradientCheckpointing, Threads, Workers
from pfcvr.cli_output import DebugFlag, JsonFlag, SeedNumber, emit, new_app, warn

app = new_app("Ablation tables and comparisons.")


@app.command()
def ablate(
    data: DataSet,
    out: Annotated[Path, typer.Option(help="Folder of the runs and tables; an unfinished table there is continued.")],
    table: Annotated[str, typer.Option(help="3 to 8 as in the paper; extended: our switches; methods: baselines.")],
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a TOML file.")] = "tiny",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key in all rows; repeatable.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="paper, official or extended.")] = None,
    protocol: Annotated[str, typer.Option(help="clean or published, as for train.")] = "clean",
    seeds: Annotated[str, typer.Option(metavar="N,N,...", help="Every row is trained once a seed.")] = "1,2,3",
    split: Annotated[str, typer.Option(help="What the rows are measured on.")] = "test",
    device: Device = "auto",
    workers: Workers = None,
    threads: Threads = None,
    gradient_checkpointing: GradientCheckpointing = False,
    compiled: Compiled = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Train and measure every row of one of the paper's tables; writes table-N-SPLIT.md, .csv, .json, .png.

    Example: pfcvr ablate --data dataset --out ablation --table 5 --recipe t2i-veri --seeds 1,2,3
    """
    from pfcvr.model import ablation

    values = {"data": data, "out": out, "table": table, "recipe": recipe, "overrides": tuple(overrides or ())}
    values |= {"variant": variant, "protocol": protocol, "seeds": seeds, "split": split, "threads": threads}
    values |= {"device": device, "workers": workers}
    values |= {"gradient_checkpointing": gradient_checkpointing, "compile": compiled}
    report = ablation.ablate(settings.parse(settings.AblateConfig, values, "pfcvr ablate"))
    warn(report.warnings)
    emit(report.as_dict(), report.text(), as_json)
    if report.diverged:
        raise typer.Exit(1)


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Finished runs, names of runs on the Hub, or folders of seeds; the first is the reference."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", help="Data set to compare on; runs are evaluated on it where they are not yet."),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    unit: Annotated[str, typer.Option(help="What the bootstrap draws: identities or queries.")] = "identities",
    published: Annotated[
        str | None, typer.Option(help="t2i-veri or t2i-verw: print the published rivals beside the runs.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for compare-SPLIT.md and .csv.")] = None,
    seed: SeedNumber = 0,
    device: Device = "auto",
    workers: Workers = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Put runs side by side: metrics with 95 % intervals, and a paired test of each against the first.

    Example: pfcvr compare irra pfcvr --data dataset --published t2i-veri
    """
    from pfcvr.model import comparison

    values = {"runs": tuple(runs), "data": data, "split": split, "unit": unit, "published": published, "out": out}
    numbers = {"seed": seed, "device": device, "workers": workers}
    report = comparison.compare(settings.parse(settings.CompareConfig, {**values, **numbers}, "pfcvr compare"))
    warn(report.warnings)
    emit(report.as_dict(), report.text(), as_json)
