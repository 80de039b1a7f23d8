"""The commands of ``pfcvr-data`` that look at a workspace, write outputs from it, or run all stages in a row."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pfcvr import config as settings
from pfcvr.cli_output import (
    DebugFlag,
    JsonFlag,
    OverwriteFlag,
    SeedNumber,
    WorkspaceDir,
    emit,
    new_app,
    reasons_text,
)
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace
from pfcvr.wording import amount

app = new_app("")


@app.command()
def check(
    workspace: WorkspaceDir,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    require_parts: Annotated[bool, typer.Option("--require-parts", help="Fail on train images without parts.")] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write every case to this file, a line of JSON each.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Draw the near-duplicates that are found to this PNG, side by side.")
    ] = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Audit a workspace: leaks between splits, unbalanced books, empty captions, missing terms.

    Example: pfcvr-data check -w work --strict --report cases.jsonl --pairs pairs.png
    """
    from pfcvr.pipeline import check as stage
    from pfcvr.pipeline.pair_sheet import draw_pairs

    config = settings.parse(
        settings.CheckConfig, {"strict": strict, "require_parts": require_parts}, "pfcvr-data check"
    )
    opened = Workspace(workspace)
    report = stage.run(opened, config)
    text = [report.text()]
    if report_file is not None:
        text.append(f"{report_file}: {amount(report.write_cases(report_file), 'case')}")
    if pairs is not None:
        drawn = draw_pairs(opened, report.near_duplicates(), pairs)
        text.append(f"{pairs}: {amount(drawn, 'pair')}" if drawn else "no near-duplicates to draw")
    emit(report.as_dict(), "\n".join(text), as_json)
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def stats(
    workspace: WorkspaceDir,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots to this file, too.")] = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Count images, identities, captions and parts: Tables I and II of the paper, and what makes captions distinct.

    Example: pfcvr-data stats -w work --html statistics.html
    """
    from pfcvr.pipeline import stats as stage
    from pfcvr.pipeline.stats_page import write_page

    statistics = stage.run(Workspace(workspace))
    if html is not None:
        write_page(statistics, html)
    emit(statistics.as_dict(), statistics.text(), as_json)


@app.command()
def show(
    workspace: WorkspaceDir,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("sheet.png"),
    sample: Annotated[int, typer.Option(help="How many images.")] = 24,
    seed: SeedNumber = 0,
    least_certain: Annotated[
        bool, typer.Option("--least-certain", help="Instead of a sample, the images with the least certain parts.")
    ] = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Draw a contact sheet: images with their parts and captions.

    Example: pfcvr-data show -w work --out sheet.png --sample 24
    """
    from pfcvr.pipeline import show as stage

    values = {"out": out, "sample": sample, "seed": seed, "least_certain": least_certain}
    config = settings.parse(settings.ShowConfig, values, "pfcvr-data show")
    sheet = stage.run(Workspace(workspace), config)
    emit(asdict(sheet), f"{sheet.out}: {amount(sheet.images, 'image')}", as_json)


@app.command()
def doctor(
    base_url: Annotated[str, typer.Option(help="Address of an OpenAI-compatible server, with /v1.")],
    model: Annotated[str | None, typer.Option(help="Model to ask; may be left out if the server has one.")] = None,
    prompt: Annotated[
        str, typer.Option(help="vehicle-json, vehicle-text, or the path of a prompt file.")
    ] = "vehicle-json",
    timeout: Annotated[float, typer.Option(help="Seconds that one request may take.")] = 120.0,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Ask a captioning server whether a schema binds, the image is seen, and an answer ends by itself.

    Example: pfcvr-data doctor --base-url http://127.0.0.1:8000/v1 --prompt vehicle-json
    """
    from pfcvr.pipeline import doctor as questions

    values = {"base_url": base_url, "model": model, "prompt": prompt, "timeout": timeout}
    diagnosis = questions.run(settings.parse(settings.DoctorConfig, values, "pfcvr-data doctor"))
    emit(diagnosis.as_dict(), diagnosis.text(), as_json)
    if not diagnosis.passed:
        raise typer.Exit(1)


@app.command()
def status(workspace: WorkspaceDir, as_json: JsonFlag = False, debug: DebugFlag = False) -> None:
    """Say for each stage whether it is absent, unfinished, sealed, stale or damaged, with its books.

    Example: pfcvr-data status -w work
    """
    from pfcvr.pipeline.status import share_edited, workspace_status

    stages = workspace_status(Workspace(workspace))
    lines = [f"{'stage':<9}{'state':<12}{'in':>9}{'kept':>9}{'rejected':>9}{'pending':>9}"]
    for stage in stages:
        pending = "?" if stage.pending is None and stage.state == "unfinished" else f"{stage.pending or 0:,}"
        rows_in = "-" if stage.rows_in is None else f"{stage.rows_in:,}"
        books = f"{rows_in:>9}{stage.kept:>9,}{stage.rejected:>9,}{pending:>9}"
        lines.append(f"{stage.stage:<9}{stage.state:<12}{books}{reasons_text(stage.reasons)}")
    lines += [f"{stage.stage}: {stage.problem}" for stage in stages if stage.problem is not None]
    edited = share_edited(stages)
    if edited is not None:
        lines.append(f"{edited:.1%} of the images have an edit by people")
    result = {
        "workspace": str(workspace),
        "stages": [stage.model_dump() for stage in stages],
        "share_edited_by_people": edited,
    }
    emit(result, "\n".join(lines), as_json)


@app.command()
def run(
    build: Annotated[Path, typer.Argument(help="TOML file with one table a stage.")],
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Run every stage that a build.toml names, from import to export and training; run it again to continue.

    Example: pfcvr-data run build.toml
    """
    from pfcvr.pipeline.build import load_build, run_build

    train_config = load_build(build).train
    if train_config is not None:
        from pfcvr.model.recipes import load_recipe

        # A mistake in the last table is told before the first stage, not days later.
        load_recipe(train_config.recipe, train_config.overrides, train_config.variant, train_config.method)
    outcome = run_build(build, RunOptions(overwrite), tell=None if as_json else print)
    result, text = outcome.as_dict(), outcome.text()
    if outcome.passed and train_config is not None:
        from pfcvr.model.train import train

        trained = train(train_config)
        result["train"] = trained.as_dict()
        text = f"{text}\n{trained.text()}"
    emit(result, text, as_json)
    if not outcome.passed:
        raise typer.Exit(1)
