"""``pfcvr-data export``: the data set that the model half trains on, complete or absent, in one of several forms.

An image is left out, with a reason in ``left_out.jsonl``, when it has no caption, when its file is gone or changed
since it was imported, or when the form cannot carry it. Images whose files come back are taken up by the next run.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pfcvr.backends import load_backend
from pfcvr.config import ExportConfig
from pfcvr.errors import NothingKept, WorkspaceError
from pfcvr.files import canonical_json, disk_full_stops
from pfcvr.jsonl import read_records, record_line
from pfcvr.pipeline.dataset_manifest import DATASET_VERSION, manifest_head
from pfcvr.pipeline.exporters import EXPORTERS, Exporter, ExportFacts, ExportItem, Refusal
from pfcvr.pipeline.joined import (
    JoinedImage,
    PixelFiles,
    PixelsUnavailable,
    grid_recipe,
    has_parts,
    joined_images,
)
from pfcvr.pipeline.output_folder import OutputFolder
from pfcvr.pipeline.status import is_stale
from pfcvr.progress import Progress
from pfcvr.records import SPLITS, PatchGrid, Rejected
from pfcvr.stage import RunOptions
from pfcvr.store import STAGES, Manifest, Workspace
from pfcvr.wording import amount

LEFT_OUT = "left_out.jsonl"
OF_ONE_ROW = {"finish_reason", "prompt_tokens", "completion_tokens", "seed"}
WITHOUT_FILE = ("missing_file", "changed_file")


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
        splits = ", ".join(
            f"{name} {amount(n['images'], 'image')} of {amount(n['vehicles'], 'vehicle')}" for name, n in counted
        )
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(self.reasons.items()))
        left_out = f"; {self.rejected:,} left out ({reasons}), see {self.out / LEFT_OUT}" if self.rejected else ""
        done = " (already done)" if self.already_done else ""
        return f"export: {self.kept:,} of {amount(self.rows_in, 'image')} in {self.out}{done}: {splits}{left_out}"


def run(workspace: Workspace, config: ExportConfig, options: RunOptions, renew: bool = False) -> ExportSummary:
    """Write the data set to ``config.out``, or say that it is there already.

    ``renew`` replaces one that was made from other inputs, but none that was altered.

    Raises WorkspaceError when a stage is missing or ``out`` is somebody else's, SealedError when it holds other
    content, NothingKept when no image can be exported, StageStopped when the disk is full.
    """
    exporter: Exporter = load_backend("export format", EXPORTERS, config.format)(config)
    manifests = _stage_manifests(workspace, exporter.needed_stages)
    fingerprint = {
        "dataset_version": DATASET_VERSION,
        "settings": config.model_dump(mode="json", exclude={"out"}),
        "stages": {name: manifest.records_sha256 for name, manifest in manifests.items()},
    }
    folder = OutputFolder(config.out, kind="pfcvr-dataset", fingerprint=fingerprint)
    done = folder.finished(options.overwrite or (renew and folder.is_outdated()))
    if done is not None and not _files_came_back(workspace, config.out / LEFT_OUT):
        return ExportSummary(config.out, splits=done["splits"], **done["books"], already_done=True)
    with disk_full_stops(f"{config.out}: export"):
        exported = _Export(workspace, config, options, manifests, exporter)
        manifest = folder.build(exported.fill)
    return ExportSummary(config.out, splits=manifest["splits"], **manifest["books"])


def _files_came_back(workspace: Workspace, left_out: Path) -> bool:
    """Whether an image that was left out for want of its file could be exported now."""
    lost = {row.subject for row in read_records(left_out, Rejected) if row.reason in WITHOUT_FILE}
    if not lost:
        return False
    files = PixelFiles(workspace)
    return any(files.is_whole(image) for image in workspace.images() if image.image_id in lost)


def _stage_manifests(workspace: Workspace, also_needed: tuple[str, ...]) -> dict[str, Manifest]:
    """Of the stages that were run; raises WorkspaceError where a needed one was not, or any is unfinished or stale."""
    needed = ("import", "caption", "split", *also_needed)
    begun = [stage for stage in STAGES if stage in needed or workspace.folder(stage).exists()]
    manifests = {stage: workspace.sealed(stage) for stage in begun}
    for stage, manifest in manifests.items():
        if not workspace.is_intact(manifest):
            raise WorkspaceError(
                f"{workspace.folder(stage)}: its records were altered since they were sealed; "
                f"run: {workspace.command(stage, '--overwrite')}"
            )
        if is_stale(workspace, manifest):
            raise WorkspaceError(
                f"{workspace.root}: stage '{stage}' was made before a stage that it reads was made anew; "
                f"run: {workspace.command(stage, '--overwrite')}"
            )
    return manifests


class _Export:
    """One run: streams the rows to the exporter and keeps the books."""

    def __init__(
        self,
        workspace: Workspace,
        config: ExportConfig,
        options: RunOptions,
        manifests: dict[str, Manifest],
        exporter: Exporter,
    ) -> None:
        self._workspace, self._config, self._options = workspace, config, options
        self._manifests, self._exporter = manifests, exporter
        self._files = PixelFiles(workspace)
        self._kept = 0
        self._reasons: Counter[str] = Counter()
        self._origins: Counter[str] = Counter()
        self._rules: set[str] = set()

    def fill(self, folder: Path) -> dict[str, Any]:
        """Write everything but the manifest into ``folder`` and return the manifest's content."""
        facts = self._facts()
        written = self._exporter.write(self._items(folder / LEFT_OUT), facts, folder)
        if self._kept == 0:
            top = (
                ", ".join(f"{count} x {reason}" for reason, count in self._reasons.most_common(3)) or "no image came in"
            )
            raise NothingKept(
                f"{self._config.out}: nothing to export ({top}); put the image files back, or make "
                "captions for them, then export"
            )
        grid = self._grid(facts) if facts.has_parts else None
        return {
            **manifest_head(self._config.format, self._kept, self._reasons, facts.sources, grid),
            "made_by": [{"images": count, **json.loads(made_by)} for made_by, count in sorted(self._origins.items())],
            "stages": {name: _stage_facts(manifest) for name, manifest in self._manifests.items()},
            **written,
        }

    def _grid(self, facts: ExportFacts) -> dict[str, Any]:
        """The recipe of the grids; its rule names all rules that were met."""
        recipe = facts.grid.model_dump(exclude={"cells"})
        return recipe | {"rule": ", ".join(sorted(self._rules)) or recipe["rule"]}

    def _facts(self) -> ExportFacts:
        grid = grid_recipe(self._workspace)
        return ExportFacts(
            sources=tuple(source for _, source in sorted(self._workspace.sources().items())),
            grid=PatchGrid(rows=grid.rows, cols=grid.cols, coverage=grid.coverage, cells={}),
            has_parts=has_parts(self._workspace),
        )

    def _items(self, left_out: Path) -> Iterator[ExportItem]:
        total = self._workspace.image_count()
        with (
            Progress("export", total, quiet=self._options.quiet) as progress,
            left_out.open("wb") as left_out_file,
        ):
            for joined in joined_images(self._workspace):
                item = self._item(joined)
                if isinstance(item, ExportItem):
                    self._kept += 1
                    self._count_origins(joined)
                    progress.advance()
                    yield item
                else:
                    self._reasons[item.reason] += 1
                    progress.advance(rejected_because=item.reason)
                    row = Rejected(stage="export", subject=joined.image.image_id, **vars(item))
                    left_out_file.write(record_line(row))

    def _item(self, joined: JoinedImage) -> ExportItem | Refusal:
        if joined.caption is None:
            return Refusal("missing_caption", "the stage caption has no row for this image")
        if joined.split is None:
            return Refusal("missing_split", "the stage split has no row for this vehicle")
        refusal = self._exporter.refuse(joined)
        if refusal is not None:
            return refusal
        try:
            return ExportItem(joined, self._files.read(joined.image), self._files.path(joined.image))
        except PixelsUnavailable as error:
            return Refusal(error.reason, error.detail)

    def _count_origins(self, joined: JoinedImage) -> None:
        """Which programs, models and prompts made the rows that were kept, and by which rule their grids."""
        if joined.parts is not None:
            self._rules.add(joined.parts.grid.rule)
        for kind, record in (("captions", joined.caption), ("parts", joined.parts)):
            if record is not None:
                origin = record.origin.model_dump(exclude=OF_ONE_ROW, exclude_none=True)
                self._origins[canonical_json({"what": kind, **origin})] += 1


def _stage_facts(manifest: Manifest) -> dict[str, Any]:
    """Books and content hash of a stage: nothing that depends on where the workspace lay."""
    return {
        "records_sha256": manifest.records_sha256,
        "rows_in": manifest.rows_in,
        "kept": manifest.kept,
        "rejected": manifest.rejected,
        "reasons": manifest.reasons,
    }
