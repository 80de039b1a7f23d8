"""``pfcvr-data check``: the audit of a workspace before anything is trained on it or published.

Failures: missing or stale stages, unbalanced books, leaks between splits, empty captions, missing terms or provenance,
and, where asked for, train images without parts. Warnings fail too with ``--strict``. Notes never do.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pfcvr.config import CheckConfig
from pfcvr.errors import WorkspaceError
from pfcvr.files import atomic_write
from pfcvr.pipeline.audit import EXAMPLES_SHOWN, Case, Finding, Tally
from pfcvr.pipeline.audit.books import audit_books
from pfcvr.pipeline.audit.captions import CaptionAudit
from pfcvr.pipeline.audit.images import NEAR_DUPLICATES, audit_edits, audit_identities, audit_images
from pfcvr.pipeline.audit.look_alikes import fingerprint_of
from pfcvr.pipeline.audit.parts import PartsAudit
from pfcvr.pipeline.audit.table import AuditTable
from pfcvr.pipeline.joined import JoinedImage, PixelFiles, PixelsUnavailable, joined_images
from pfcvr.progress import Progress
from pfcvr.records import ImageRecord
from pfcvr.store import Workspace
from pfcvr.wording import amount

READERS = 4
READS_AHEAD = 32
Fingerprint = tuple[int, bytes] | None


@dataclass(frozen=True)
class CheckReport:
    """What was found. ``images``: how many were audited; 0 when a stage is missing."""

    workspace: Path
    strict: bool
    images: int
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """No failure, and under ``strict`` no warning either."""
        failing = {"failure", "warning"} if self.strict else {"failure"}
        return not any(finding.severity in failing for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "workspace": str(self.workspace),
            "passed": self.passed,
            "strict": self.strict,
            "images": self.images,
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def text(self) -> str:
        """A verdict and a line for each finding."""
        count = {name: sum(finding.severity == name for finding in self.findings) for name in ("failure", "warning")}
        verdict = "passed" if self.passed else "failed"
        strict = ", and warnings count (--strict)" if self.strict else ""
        head = f"check: {verdict}, {amount(self.images, 'image')}, {amount(count['failure'], 'failure')}, "
        lines = [head + amount(count["warning"], "warning") + strict]
        lines += [f"  {finding.text()}" for finding in self.findings]
        if any(finding.count > EXAMPLES_SHOWN for finding in self.findings):
            lines.append("  every case: --report FILE, or --json")
        return "\n".join(lines)

    def near_duplicates(self) -> Iterable[Case]:
        """The pairs of images of different splits that look the same."""
        return next((finding.cases for finding in self.findings if finding.code == NEAR_DUPLICATES), ())

    def write_cases(self, path: Path) -> int:
        """Write every case to ``path`` as a line of JSON and return how many; raises WorkspaceError where it cannot."""
        count = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                for finding in self.findings:
                    for case in finding.cases:
                        count += 1
                        row = {"severity": finding.severity, "code": finding.code, **asdict(case)}
                        file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        except OSError as error:
            raise WorkspaceError(f"{path}: cannot be written ({error.strerror}); give another --report FILE") from None
        return count


def run(workspace: Workspace, config: CheckConfig) -> CheckReport:
    """Audit ``workspace``; changes nothing. Raises WorkspaceError only for manifests that cannot be read."""
    findings = list(audit_books(workspace, config.require_parts))
    images = 0
    if not any(finding.code == "missing_stage" for finding in findings):
        images = workspace.image_count()
        try:
            findings += list(_audit_records(workspace, config))
        except WorkspaceError as error:
            findings.append(Finding("unreadable_records", "failure", 1, str(error)))
    order = {"failure": 0, "warning": 1, "note": 2}
    findings.sort(key=lambda finding: order[finding.severity])
    return CheckReport(workspace.root, config.strict, images, tuple(findings))


def _audit_records(workspace: Workspace, config: CheckConfig) -> Iterator[Finding]:
    """The audits that read every record and every image file, in one pass."""
    parts = PartsAudit(config.require_parts)
    unavailable, sourceless = Tally(), Tally()
    sources = workspace.sources()
    with (
        closing(AuditTable()) as table,
        closing(CaptionAudit()) as captions,
        Progress("check", workspace.image_count()) as progress,
    ):
        for joined, fingerprint in _with_fingerprints(workspace):
            captions.look_at(joined)
            parts.look_at(joined)
            if isinstance(fingerprint, PixelsUnavailable):
                unavailable.add_image(joined.image.image_id)
                fingerprint = None
            if joined.image.source not in sources:
                sourceless.add_image(joined.image.image_id)
            table.add(joined, *(fingerprint or (None, None)))
            progress.advance()
        yield from audit_identities(workspace)
        yield from audit_images(table)
        yield from captions.findings(table)
    yield from audit_edits(workspace)
    yield from parts.findings()
    yield from unavailable.finding(
        "unavailable_images", "warning", "image files are gone or changed and will be left out of the export"
    )
    yield from sourceless.finding("missing_provenance", "failure", "images name a source that is not recorded")
    unlicensed = Tally.of(name for name, source in sorted(sources.items()) if not (source.licence or "").strip())
    yield from unlicensed.finding(
        "missing_licence",
        "failure",
        "sources have no licence; add source.json or LICENSE to them, import again",
    )


def _with_fingerprints(workspace: Workspace) -> Iterator[tuple[JoinedImage, Fingerprint | PixelsUnavailable]]:
    """Every image with the fingerprint of its file, read by several threads, a few ahead."""
    files = PixelFiles(workspace)

    def read(image: ImageRecord) -> Fingerprint | PixelsUnavailable:
        try:
            return fingerprint_of(files.read(image))
        except PixelsUnavailable as error:
            return error

    with ThreadPoolExecutor(READERS) as pool:
        ahead: deque[tuple[JoinedImage, Future[Fingerprint | PixelsUnavailable]]] = deque()
        for joined in joined_images(workspace):
            ahead.append((joined, pool.submit(read, joined.image)))
            if len(ahead) >= READS_AHEAD:
                oldest, result = ahead.popleft()
                yield oldest, result.result()
        for oldest, result in ahead:
            yield oldest, result.result()
