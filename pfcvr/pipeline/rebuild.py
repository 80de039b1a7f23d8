"""``pfcvr-data rebuild``: published annotations and the reader's own copy of the images, joined to a data set.

Of each image the report says: ``ok`` (the very bytes), ``reencoded`` (other bytes, the same picture by its difference
hash), ``ambiguous`` (the same, but another image or file may be meant), ``different`` (a file of that name with another
picture), ``missing``, or ``damaged`` (the annotations do not fit it).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pfcvr.config import RebuildConfig
from pfcvr.errors import NothingKept
from pfcvr.files import disk_full_stops
from pfcvr.pipeline.dataset_manifest import DATASET_VERSION, manifest_head
from pfcvr.pipeline.exporters.hf import features
from pfcvr.pipeline.exporters.table import write_table
from pfcvr.pipeline.matching import STATUSES, Found, Matcher
from pfcvr.pipeline.output_folder import OutputFolder
from pfcvr.pipeline.own_copy import OwnCopy
from pfcvr.pipeline.published_annotations import FOUND_BY, PublishedAnnotations, damage
from pfcvr.progress import Progress
from pfcvr.records import Split
from pfcvr.stage import RunOptions
from pfcvr.wording import amount

REPORT, REPORT_TEXT = "report.jsonl", "report.txt"


@dataclass(frozen=True)
class RebuildSummary:
    """The books: ``rows_in == kept + rejected``; ``statuses`` counts all rows by what was found of them."""

    out: Path
    rows_in: int
    kept: int
    rejected: int
    reasons: dict[str, int]
    statuses: dict[str, int]
    splits: dict[str, dict[str, int]]
    already_done: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "out": str(self.out), "report": str(self.out / REPORT)}

    def text(self) -> str:
        """One line for people."""
        done = " (already done)" if self.already_done else ""
        kept = f"{self.kept:,} of {amount(self.rows_in, 'image')}"
        return f"rebuild: {kept} in {self.out}{done}: {_counted(self.statuses)}; see {REPORT_TEXT}"


def run(config: RebuildConfig, options: RunOptions) -> RebuildSummary:
    """Write the data set to ``config.out``, or say that it is there already.

    Files that were added to the copy since are taken up. Raises SourceError for what is no annotations or no copy,
    SealedError when ``out`` was made from other annotations, NothingKept when no image of the copy fits.
    """
    annotations = PublishedAnnotations(config.annotations)
    fingerprint = {
        "dataset_version": DATASET_VERSION,
        "annotations": annotations.fingerprint(),
        "accept_reencoded": config.accept_reencoded,
    }
    folder = OutputFolder(config.out, kind="pfcvr-dataset", fingerprint=fingerprint)
    done = folder.finished(options.overwrite)
    with closing(OwnCopy(config.images)) as copy, disk_full_stops(f"{config.out}: rebuild"):
        if done is not None and (done["books"]["rejected"] == 0 or done["copy_sha256"] == copy.listing_sha256()):
            return _summary(config.out, done, already_done=True)
        manifest = folder.build(_Rebuild(annotations, copy, config, options).fill)
    return _summary(config.out, manifest, already_done=False)


def _summary(out: Path, manifest: dict[str, Any], already_done: bool) -> RebuildSummary:
    return RebuildSummary(
        out, **manifest["books"], statuses=manifest["statuses"], splits=manifest["splits"], already_done=already_done
    )


class _Rebuild:
    """One run: streams the rows, keeps the books, writes the report."""

    def __init__(
        self, annotations: PublishedAnnotations, copy: OwnCopy, config: RebuildConfig, options: RunOptions
    ) -> None:
        self._annotations, self._copy, self._config, self._options = annotations, copy, config, options
        self._statuses: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._kept = 0

    def fill(self, folder: Path) -> dict[str, Any]:
        """Write everything but the manifest into ``folder`` and return the manifest's content."""
        facts = self._annotations.facts(self._config.images)
        written = write_table(self._rows(folder), features(facts), facts, folder)
        if self._kept == 0:
            raise NothingKept(
                f"{self._config.images}: no image fits the annotations ({_counted(self._statuses)}); give the root of "
                "the collection that they name, or take pictures that only look the same with --accept-reencoded"
            )
        return {
            **manifest_head("hf", self._kept, self._reasons, facts.sources, self._annotations.grid),
            "statuses": {status: self._statuses[status] for status in STATUSES},
            "copy_sha256": self._copy.listing_sha256(),
            **written,
        }

    def _rows(self, folder: Path) -> Iterator[tuple[Split, dict[str, Any], int]]:
        """Rows of the data set with the bytes of their file; all rows go into the report."""
        with ExitStack() as opened:
            progress = opened.enter_context(
                Progress("rebuild", self._annotations.total(), quiet=self._options.quiet, unit="image")
            )
            report = opened.enter_context((folder / REPORT).open("w", encoding="utf-8"))
            text = opened.enter_context((folder / REPORT_TEXT).open("w", encoding="utf-8"))
            matcher = opened.enter_context(closing(Matcher(self._copy, self._annotations.names)))
            for split, row in self._annotations.rows():
                found = matcher.find(row)
                trouble = None if found.pixels is None else damage(row, found.pixels)
                if trouble is not None:
                    found = Found("damaged", found.file, trouble)
                self._statuses[found.status] += 1
                accepted = found.status == "ok" or self._config.accept_reencoded
                reason = None if accepted and found.pixels is not None else found.status
                progress.advance(rejected_because=reason)
                _report(row, found, reason is None, report, text)
                if reason is not None or found.pixels is None:
                    self._reasons[found.status] += 1
                    continue
                self._kept += 1
                yield split, _joined(row, found.pixels), len(found.pixels)
            text.write(f"{_counted(self._statuses)}\n")


def _joined(row: dict[str, Any], pixels: bytes) -> dict[str, Any]:
    """The row of the data set; ``sha256`` is of the bytes that it holds."""
    known = {name: value for name, value in row.items() if name not in FOUND_BY}
    return {
        "image": {"bytes": pixels, "path": row["path"]},
        **known,
        "part_grid": np.array(row["part_grid"], np.uint8),
        "sha256": hashlib.sha256(pixels).hexdigest(),
    }


def _report(row: dict[str, Any], found: Found, kept: bool, report: IO[str], text: IO[str]) -> None:
    line = {"image_id": row["image_id"], "status": found.status, "kept": kept, "file": found.file}
    report.write(json.dumps(line | {"detail": found.detail}, ensure_ascii=False) + "\n")
    if found.status != "ok":
        where = f" {found.file!r} ({found.detail})" if found.file else ""
        text.write(f"{found.status:<10} {row['image_id']!r}{where}\n")


def _counted(statuses: dict[str, int]) -> str:
    return ", ".join(f"{statuses.get(status, 0):,} {status}" for status in STATUSES)
