"""``pfcvr-data run build.toml``: every stage in a row, each continuing where an earlier run stopped."""

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pfcvr.config import BuildConfig, Settings, parse, read_toml
from pfcvr.pipeline import check, export, show
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

# A section of build.toml and the module whose run() it configures, in the order they are run.
STAGE_MODULES = {
    "import_": "import_",
    "select": "select",
    "caption": "caption",
    "parts": "parts",
    "split": "split",
}
PATHS = {"workspace", "source", "list", "captions", "annotations", "phrases", "out"}
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
    workspace = Workspace(config.workspace, create=True)
    steps: dict[str, dict[str, Any]] = {}
    tell = tell or (lambda text: None)
    with workspace.lock():
        for section, module in STAGE_MODULES.items():
            settings: Settings | None = getattr(config, section)
            if settings is None:
                continue
            summary = importlib.import_module(f"pfcvr.pipeline.{module}").run(workspace, settings, options)
            steps[summary.stage] = asdict(summary)
            tell(summary.text())
        passed = _audit_and_export(workspace, config, options, steps, tell)
    return BuildOutcome(config.workspace, steps, passed)


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
        tell(f"show: {sheet.out}, {sheet.images} images")
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
        if not isinstance(value, str):
            return value
        is_path = key in PATHS or (key in NAMES_OR_PATHS and value.startswith(("./", "../")))
        return str(base / value) if is_path else value

    return {name: resolve(value, name) for name, value in tables.items()}
