"""``pfcvr-data push``: a checked, sealed data set on the Hugging Face Hub, without pixels unless they may go there.

``WORKSPACE/push/<form>/export`` is the export, ``repository`` what is published: its files, a card from measured facts,
the sources' terms and croissant.json. Nothing else is ever uploaded: contact sheets and reports are pixels too.
"""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pfcvr.config import CheckConfig, ExportConfig, PushDataConfig
from pfcvr.errors import SealedError, WorkspaceError
from pfcvr.files import disk_full_stops, sha256_file
from pfcvr.hub import MANIFEST_NAME, Publication, Published, publish, read_manifest
from pfcvr.pipeline import check, export
from pfcvr.pipeline.check import CheckReport
from pfcvr.pipeline.croissant import NAME as CROISSANT_NAME
from pfcvr.pipeline.croissant import Described, describe, split_of
from pfcvr.pipeline.data_card import LICENCE_NAME, CardFrame, about, card, cite_as, licence_of, licence_text
from pfcvr.pipeline.output_folder import OutputFolder
from pfcvr.pipeline.publication_facts import PublicationFacts, measure
from pfcvr.pipeline.verify_hub import same_rows
from pfcvr.records import SPLITS
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace
from pfcvr.wording import amount

PUBLICATION_VERSION = 2
CARD_NAME = "README.md"
OF_ITS_OWN = ("kind", "fingerprint", "sizes", "files")  # what a manifest says of its own folder


@dataclass(frozen=True)
class PushSummary:
    """What was published, or for a dry run what would be. ``rows`` were read back from the Hub and compared."""

    repository: str
    folder: Path
    with_images: bool
    files: dict[str, int]
    images: int
    published: Published | None
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        hub = asdict(self.published) if self.published is not None else None
        return {**asdict(self), "folder": str(self.folder), "published": hub, "dry_run": self.published is None}

    def text(self) -> str:
        """What a person wants to know, in two lines."""
        pixels = "with images" if self.with_images else "annotations without pixels"
        files, images = amount(len(self.files), "file"), amount(self.images, "image")
        what = f"{files}, {sum(self.files.values()):,} bytes, {images}, {pixels}"
        if self.published is None:
            return f"push: nothing was sent; {what} in {self.folder}, for {self.repository}"
        done = self.published
        sent = f"{amount(done.sent, 'file')} sent, {done.kept} there before" + (
            f", {len(done.removed)} removed" if done.removed else ""
        )
        compared = f"{amount(self.rows, 'row')} read back and compared"
        return f"push: {what}: {done.url}\n  {sent}; commit {done.commit}; {compared}"


def run(workspace: Workspace, config: PushDataConfig, options: RunOptions) -> PushSummary:
    """Check, export, describe and publish ``workspace``; what was done before is not done again.

    Raises:
        WorkspaceError: a stage is missing or stale, or the check found failures.
        SealedError: the folder of an earlier publication was altered since, or holds a file of somebody else.
        HubError: the Hub refused something, or other rows than these arrived there.
    """
    report = check.run(workspace, CheckConfig())
    if not report.passed:
        failure = next(finding for finding in report.findings if finding.severity == "failure")
        raise WorkspaceError(
            f"{workspace.root}: the check found failures ({failure.count:,} {failure.sentence}), and a data set that "
            f"fails is not published; run: pfcvr-data check -w {workspace.root}"
        )
    free = all(source.redistribute_images for source in workspace.sources().values())
    pixels = config.with_images or free
    form = workspace.root / "push" / ("images" if pixels else "annotations")
    exported = export.run(
        workspace,
        ExportConfig(out=form / "export", format="hf" if pixels else "annotations"),
        RunOptions(overwrite=config.overwrite, quiet=options.quiet),
        renew=True,
    )
    repository = _compose(workspace, config, form, pixels, report)
    _check_untouched(repository)
    publication = Publication(repository, config.repository, "dataset", restricted=config.with_images)
    published, rows = None, 0
    if not config.dry_run:
        published = publish(publication, config.overwrite)
        rows = same_rows(repository, config.repository, published.commit)
    sizes = {name: path.stat().st_size for name, path in publication.files.items()}
    return PushSummary(config.repository, repository, pixels, sizes, exported.kept, published, rows)


def _compose(workspace: Workspace, config: PushDataConfig, form: Path, pixels: bool, report: CheckReport) -> Path:
    """The folder that is published, built unless it stands there already.

    It follows the workspace by itself: ``overwrite`` is for the repository and for files that somebody altered.
    """
    exported = form / "export"
    fingerprint = {
        "publication_version": PUBLICATION_VERSION,
        "export": sha256_file(exported / MANIFEST_NAME),
        "repository": config.repository,
        "right": config.right,
    }
    folder = OutputFolder(form / "repository", kind="pfcvr-dataset", fingerprint=fingerprint)
    outdated = folder.is_outdated()
    if outdated and not config.overwrite:
        _check_untouched(folder.place)
    if folder.finished(config.overwrite or outdated) is None:
        with disk_full_stops(f"{folder.place}: push"):
            folder.build(lambda place: _fill(place, exported, workspace, config, pixels, report))
    return folder.place


def _fill(
    place: Path, exported: Path, workspace: Workspace, config: PushDataConfig, pixels: bool, report: CheckReport
) -> dict[str, Any]:
    """Write everything but the manifest into ``place``; the manifest's content."""
    manifest = read_manifest(exported)
    names = [name for name in manifest["files"] if name != CARD_NAME]
    for name in names:
        _link(exported / name, place / name)
    shards = [name for split in SPLITS for name in names if name.endswith(".parquet") and split_of(name) == split]
    facts = measure(workspace, manifest, [exported / name for name in shards], report)
    frame = CardFrame(config.repository, config.right, pixels, {name: manifest["files"][name] for name in shards})
    (place / CARD_NAME).write_text(card(facts, frame), encoding="utf-8")
    (place / LICENCE_NAME).write_text(licence_text(facts, frame), encoding="utf-8")
    (place / CROISSANT_NAME).write_text(_croissant(facts, frame, manifest), encoding="utf-8")
    written = [*names, CARD_NAME, LICENCE_NAME, CROISSANT_NAME]
    kept = {name: value for name, value in manifest.items() if name not in OF_ITS_OWN}
    return {**kept, "files": {name: sha256_file(place / name) for name in written}}


def _croissant(facts: PublicationFacts, frame: CardFrame, manifest: dict[str, Any]) -> str:
    from huggingface_hub import constants

    url = f"{constants.ENDPOINT}/datasets/{frame.name}"
    licence = licence_of(facts.sources)
    return describe(
        Described(
            name=frame.name,
            about=about(facts, frame.with_images),
            licence=f"{url}/blob/main/{LICENCE_NAME}" if licence == "other" else licence,
            cite_as=cite_as(facts, frame),
            version=f"{manifest['dataset_version']}.0.0",
            url=url,
            files=dict(frame.files),
            columns=facts.columns,
        )
    )


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _check_untouched(folder: Path) -> None:
    """Raises SealedError unless ``folder`` holds exactly the files that its manifest names, with their bytes."""
    manifest = read_manifest(folder)
    expected: dict[str, str] = manifest["files"]
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    strange = sorted(found.keys() - expected.keys() - {MANIFEST_NAME})
    if strange:
        raise SealedError(
            f"{folder}: {strange[0]} does not belong to the publication, and nothing else is uploaded; "
            "move it elsewhere and run the same command again"
        )
    for name, digest in expected.items():
        if name not in found or found[name].is_symlink() or sha256_file(found[name]) != digest:
            raise SealedError(
                f"{folder}: {name} was removed or altered since it was sealed; rerun with --overwrite to make the "
                "publication again"
            )
