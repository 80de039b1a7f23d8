"""Where a workspace stands: one line a stage, without changing anything."""

from typing import Literal

from pfcvr.errors import WorkspaceError
from pfcvr.records import Record
from pfcvr.stage_files import kept_so_far, read_draft, rejected_so_far
from pfcvr.store import STAGES, Manifest, Workspace


class StageStatus(Record):
    """The books of one stage. ``stale``: sealed, but from other inputs than the stages before it hold now.

    ``damaged``: its files cannot be read; ``problem`` says what is wrong with it or with a stage that it reads.
    """

    stage: str
    state: Literal["absent", "unfinished", "sealed", "stale", "damaged"]
    rows_in: int | None = None
    kept: int = 0
    rejected: int = 0
    pending: int | None = None
    reasons: dict[str, int] = {}
    problem: str | None = None


def workspace_status(workspace: Workspace) -> list[StageStatus]:
    """The status of every stage in the order they are run; one that is damaged does not hide the others."""
    return [_readable_status(workspace, stage) for stage in STAGES]


def share_edited(stages: list[StageStatus]) -> float | None:
    """Images with an edit by people per image of the data set, in [0, 1]; None without edits or without images."""
    kept = {stage.stage: stage.kept for stage in stages if stage.state in ("sealed", "stale")}
    images = kept.get("select", kept.get("import", 0))
    return min(kept["merge"] / images, 1.0) if "merge" in kept and images else None


def _readable_status(workspace: Workspace, stage: str) -> StageStatus:
    try:
        return _stage_status(workspace, stage)
    except WorkspaceError as error:
        return StageStatus(stage=stage, state="damaged", problem=str(error))


def _stage_status(workspace: Workspace, stage: str) -> StageStatus:
    manifest = workspace.manifest(stage)
    if manifest is not None:
        state, problem = _freshness(workspace, manifest)
        return StageStatus(
            stage=stage,
            state=state,
            rows_in=manifest.rows_in,
            kept=manifest.kept,
            rejected=manifest.rejected,
            pending=0,
            reasons=manifest.reasons,
            problem=problem,
        )
    folder = workspace.folder(stage)
    if not folder.exists():
        return StageStatus(stage=stage, state="absent")
    kept = kept_so_far(folder)
    reasons = rejected_so_far(folder)
    total = read_draft(folder).get("total")
    return StageStatus(
        stage=stage,
        state="unfinished",
        rows_in=total,
        kept=kept,
        rejected=reasons.total(),
        pending=None if total is None else max(total - kept - reasons.total(), 0),
        reasons=dict(reasons),
    )


def _freshness(workspace: Workspace, manifest: Manifest) -> tuple[Literal["sealed", "stale"], str | None]:
    """Whether a sealed stage is stale, and what keeps that from being told."""
    try:
        return ("stale" if is_stale(workspace, manifest) else "sealed"), None
    except WorkspaceError as error:
        return "sealed", f"whether it is up to date cannot be told: {error}"


def is_stale(workspace: Workspace, manifest: Manifest) -> bool:
    """Whether a stage that this one was made from has been made anew since."""
    for stage in filter(manifest.inputs.__contains__, STAGES):
        before = workspace.manifest(stage)
        if before is None or before.records_sha256 != manifest.inputs[stage]:
            return True
    reads_images = "import" in manifest.inputs and manifest.stage != "select"
    return reads_images and workspace.manifest("select") is not None and "select" not in manifest.inputs
