"""The report of ``pfcvr-data check`` and what it found, and pictures made alike for it to find."""

import hashlib

from pfcvr.config import CheckConfig
from pfcvr.pipeline import check


def audit(small, **settings) -> check.CheckReport:
    return check.run(small.workspace, CheckConfig(**settings))


def finding(report: check.CheckReport, code: str):
    (found,) = [one for one in report.findings if one.code == code]
    return found


def codes(report: check.CheckReport, severity: str = "failure") -> set[str]:
    return {one.code for one in report.findings if one.severity == severity}


def replace_picture(small, index: int, content: bytes) -> None:
    image = small.images[index]
    (small.source / image.path).write_bytes(content)
    small.images[index] = image.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
