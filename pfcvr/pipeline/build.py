"""``pfcvr-data run build.toml``: every stage in a row, each continuing where an earlier run stopped."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pfcvr.config import BuildConfig, MergeConfig, Settings, parse, read_toml
from pfcvr.pipeline import check, export, import_, merge, select, show, split
from pfcvr.stage import RunOptions, StageSummary
from pfcvr.store import Workspace
from pfcvr.wording import amount

# A section of build.toml and the module whose run() it configures, in the order they are run.
STAGE_MODULES = {
    "import_": "import_",
    "select": "select",
    "caption": "caption",
    "parts": "parts",
    "merge": "merge",
    "split": "split",
}
REPORTS = {"import_": import_.report, "select": select.report, "split": split.report}
PATHS = {"workspace", "source", "list", "captions", "annotations", "phrases", "file", "out"}
NAMES_OR_PATHS = {"model", "prompt", "detector_model", "segmenter_model", "text_encoder", "python", "recipe", "data"}
Tell = Callable[[str], None]


@dataclass(frozen=True)
class BuildOutcome:
    """What each step of a build came to; ``passed`` is False when the check found failures."""

    workspace: Path
    steps: dict[str, dict[str, Any]]
    passed: bool

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"workspace": str(self.workspace), "passed": self.passed, "steps": self.steps}

    def text(self) -> str:
        """One closing line."""
        state = "all steps done" if self.passed else "stopped at check, nothing was exported"
        return f"{self.workspace}: {state} ({', '.join(self.steps)})"


def load_build(path: Path) -> BuildConfig:
    """The build file at ``path``, its paths resolved; raises UsageError for what is no build file.

    Its ``train`` is the other half's work, after ``run_build``.
    """
    return parse(BuildConfig, _absolute_paths(read_toml(path), path.parent), str(path))


def run_build(path: Path, options: RunOptions, tell: Tell | None = None) -> BuildOutcome:
    """Run what ``path`` names. Its relative paths are meant from the folder it lies in.

    A failed check ends the build before anything is exported. Raises what the stages raise; UsageError for an unknown
    section or key.
    """
    config = load_build(path)
    workspace = import_.workspace_for(config.import_, config.workspace)
    steps: dict[str, dict[str, Any]] = {}
    tell = tell or (lambda text: None)
    with workspace.lock():
        for name, summary, text in _stages(workspace, config, options):
            steps[name] = asdict(summary)
            tell(text)
        passed = _audit_and_export(workspace, config, options, steps, tell)
    return BuildOutcome(config.workspace, steps, passed)


def _stages(workspace: Workspace, config: BuildConfig, options: RunOptions) -> Iterator[tuple[str, StageSummary, str]]:
    """Run one stage after the other: what it is called, what it came to, and that in words."""
    for section, module in STAGE_MODULES.items():
        settings: Settings | None = getattr(config, section)
        if section == "merge":
            yield from _merges(workspace, config.merge, options)
        elif settings is not None:
            stage = importlib.import_module(f"pfcvr.pipeline.{module}")
            summary: StageSummary = stage.run(workspace, settings, options)
            report = REPORTS[module](summary) if module in REPORTS else ""
            yield summary.stage, summary, "\n".join(filter(None, [summary.text(), report]))


def _merges(
    workspace: Workspace, files: Sequence[MergeConfig], options: RunOptions
) -> Iterator[tuple[str, StageSummary, str]]:
    """Lay the edits of each file over the earlier ones; what people said is never overwritten by a build."""
    for settings in files:
        summary = merge.run(workspace, settings, replace(options, overwrite=False))
        yield f"merge {summary.notes['file']}", summary, f"{summary.text()}\n{merge.report_text(summary)}"


def _audit_and_export(
    workspace: Workspace, config: BuildConfig, options: RunOptions, steps: dict[str, dict[str, Any]], tell: Tell
) -> bool:
    if config.check is not None:
        report = check.run(workspace, config.check)
        steps["check"] = report.as_dict()
        tell(report.text())
        if not report.passed:
            return False
    if config.show is not None:
        sheet = show.run(workspace, config.show)
        steps["show"] = asdict(sheet)
        tell(f"show: {sheet.out}, {amount(sheet.images, 'image')}")
    if config.export is not None:
        summary = export.run(workspace, config.export, options)
        steps["export"] = summary.as_dict()
        tell(summary.text())
    return True


def _absolute_paths(tables: dict[str, Any], base: Path) -> dict[str, Any]:
    """``tables`` with each path resolved from ``base``, the folder of the build file.

    What may be a name or a path is a path where it starts with ``./`` or ``../``.
    """

    def resolve(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: resolve(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [resolve(inner, key) for inner in value]
        if not isinstance(value, str):
            return value
        is_path = key in PATHS or (key in NAMES_OR_PATHS and value.startswith(("./", "../")))
        return str(base / value) if is_path else value

    return {name: resolve(value, name) for name, value in tables.items()}
