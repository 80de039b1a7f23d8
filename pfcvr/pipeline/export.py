"""``pfcvr-data export``: the data set that the model half trains on, complete or absent, in one of several forms.

An image is left out, with a reason in ``left_out.jsonl``, when it has no caption or when its file is gone or changed
since it was imported. The stage ``parts`` is optional; ``caption`` and ``split`` are not.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pfcvr import __version__
from pfcvr.backends import load_backend
from pfcvr.config import ExportConfig, GridConfig
from pfcvr.errors import NothingKept, WorkspaceError
from pfcvr.files import disk_full_stops
from pfcvr.jsonl import record_line
from pfcvr.pipeline.exporters import EXPORTERS, Exporter, ExportFacts, ExportItem
from pfcvr.pipeline.joined import PixelFiles, PixelsUnavailable, joined_images
from pfcvr.pipeline.output_folder import OutputFolder
from pfcvr.pipeline.status import is_stale
from pfcvr.progress import Progress
from pfcvr.records import SPLITS, PatchGrid, Rejected
from pfcvr.stage import RunOptions
from pfcvr.store import STAGES, Manifest, Workspace

DATASET_VERSION = 1
LEFT_OUT = "left_out.jsonl"


@dataclass(frozen=True)
class ExportSummary:
    """The books of an export: ``rows_in == kept + rejected``. ``splits`` counts images, vehicles, captions of each."""

    out: Path
    rows_in: int
    kept: int
    rejected: int
    reasons: dict[str, int]
    splits: dict[str, dict[str, int]]
    already_done: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "out": str(self.out)}

    def text(self) -> str:
        """One line for people."""
        counted = [(name, self.splits[name]) for name in SPLITS if name in self.splits]
        splits = ", ".join(f"{name} {n['images']:,} images / {n['vehicles']:,} IDs" for name, n in counted)
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(self.reasons.items()))
        left_out = f"; {self.rejected:,} left out ({reasons}), see {self.out / LEFT_OUT}" if self.rejected else ""
        done = " (already done)" if self.already_done else ""
        return f"export: {self.kept:,} of {self.rows_in:,} images in {self.out}{done}: {splits}{left_out}"


def run(workspace: Workspace, config: ExportConfig, options: RunOptions) -> ExportSummary:
    """Write the data set to ``config.out``, or say that it is there already.

    Raises WorkspaceError when a stage is missing or ``out`` is somebody else's, SealedError when it holds other
    content, NothingKept when no image can be exported, StageStopped when the disk is full.
    """
    manifests = _stage_manifests(workspace)
    fingerprint = {
        "format": config.format,
        "dataset_version": DATASET_VERSION,
        "stages": {name: manifest.records_sha256 for name, manifest in manifests.items()},
    }
    folder = OutputFolder(config.out, kind="pfcvr-dataset", fingerprint=fingerprint)
    done = folder.finished(options.overwrite)
    if done is None:
        with disk_full_stops(f"{config.out}: export"):
            exported = _Export(workspace, config, options, manifests)
            manifest = folder.build(exported.fill)
    else:
        manifest = done
    return ExportSummary(config.out, splits=manifest["splits"], **manifest["books"], already_done=done is not None)


def _stage_manifests(workspace: Workspace) -> dict[str, Manifest]:
    """Of the stages that were run; raises WorkspaceError where a needed one was not, or any is unfinished or stale."""
    needed = ("import", "caption", "split")
    begun = [stage for stage in STAGES if stage in needed or workspace.folder(stage).exists()]
    manifests = {stage: workspace.sealed(stage) for stage in begun}
    for stage, manifest in manifests.items():
        if not workspace.is_intact(manifest):
            raise WorkspaceError(
                f"{workspace.folder(stage)}: its records were altered since they were sealed; "
                f"run: pfcvr-data {stage} -w {workspace.root} --overwrite"
            )
        if is_stale(workspace, manifest):
            raise WorkspaceError(
                f"{workspace.root}: stage '{stage}' was made before a stage that it reads was made anew; "
                f"run: pfcvr-data {stage} -w {workspace.root} --overwrite"
            )
    return manifests


class _Export:
    """One run: streams the rows to the exporter and keeps the books."""

    def __init__(
        self, workspace: Workspace, config: ExportConfig, options: RunOptions, manifests: dict[str, Manifest]
    ) -> None:
        self._workspace, self._config, self._options, self._manifests = workspace, config, options, manifests
        self._files = PixelFiles(workspace)
        self._kept = 0
        self._reasons: Counter[str] = Counter()

    def fill(self, folder: Path) -> dict[str, Any]:
        """Write everything but the manifest into ``folder`` and return the manifest's content."""
        facts = self._facts()
        exporter: Exporter = load_backend("export format", EXPORTERS, self._config.format)()
        written = exporter.write(self._items(folder / LEFT_OUT), facts, folder)
        if self._kept == 0:
            top = (
                ", ".join(f"{count} x {reason}" for reason, count in self._reasons.most_common(3)) or "no image came in"
            )
            raise NothingKept(
                f"{self._config.out}: nothing to export ({top}); put the image files back or run "
                f"pfcvr-data caption -w {self._workspace.root} again, then export"
            )
        rejected = self._reasons.total()
        return {
            "dataset_version": DATASET_VERSION,
            "pfcvr_version": __version__,
            "books": {
                "rows_in": self._kept + rejected,
                "kept": self._kept,
                "rejected": rejected,
                "reasons": dict(sorted(self._reasons.items())),
            },
            "sources": [source.model_dump(exclude={"root"}) for source in facts.sources],
            "grid": facts.grid.model_dump(exclude={"cells"}) if facts.has_parts else None,
            "stages": {name: _stage_facts(manifest) for name, manifest in self._manifests.items()},
            **written,
        }

    def _facts(self) -> ExportFacts:
        parts = self._manifests.get("parts")
        grid = GridConfig.model_validate(parts.settings["grid"]) if parts is not None else GridConfig()
        return ExportFacts(
            sources=tuple(source for _, source in sorted(self._workspace.sources().items())),
            grid=PatchGrid(rows=grid.rows, cols=grid.cols, coverage=grid.coverage, cells={}),
            has_parts=parts is not None,
        )

    def _items(self, left_out: Path) -> Iterator[ExportItem]:
        total = self._workspace.image_count()
        with (
            Progress("export", total, quiet=self._options.quiet) as progress,
            left_out.open("wb") as left_out_file,
        ):
            for joined in joined_images(self._workspace):
                reason, detail = None, ""
                try:
                    pixels = self._files.read(joined.image)
                except PixelsUnavailable as error:
                    reason, detail = error.reason, error.detail
                if joined.caption is None:
                    reason, detail = "missing_caption", "the stage caption has no row for this image"
                elif joined.split is None:
                    reason, detail = "missing_split", "the stage split has no row for this vehicle"
                progress.advance(rejected_because=reason)
                if reason is None:
                    self._kept += 1
                    yield ExportItem(joined, pixels)
                else:
                    self._reasons[reason] += 1
                    row = Rejected(stage="export", subject=joined.image.image_id, reason=reason, detail=detail)
                    left_out_file.write(record_line(row))


def _stage_facts(manifest: Manifest) -> dict[str, Any]:
    """Books and content hash of a stage: nothing that depends on where the workspace lay."""
    return {
        "records_sha256": manifest.records_sha256,
        "rows_in": manifest.rows_in,
        "kept": manifest.kept,
        "rejected": manifest.rejected,
        "reasons": manifest.reasons,
    }
