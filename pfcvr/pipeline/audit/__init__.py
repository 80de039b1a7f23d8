"""What ``pfcvr-data check`` looks at, one module a subject. Every audit yields findings; none changes anything."""

import json
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import Any, Literal

EXAMPLES_KEPT = 20
EXAMPLES_SHOWN = 3
BYTES_IN_MEMORY = 1 << 18

Severity = Literal["failure", "warning", "note"]


@dataclass(frozen=True)
class Case:
    """One occurrence: in words, the images that it is about, and more on it where there is more to say."""

    case: str
    image_ids: tuple[str, ...] = ()
    detail: str = ""


class Cases:
    """Cases in the order they were found, in a temporary file once they are many."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(BYTES_IN_MEMORY)  # noqa: SIM115 (it lives as long as the finding)
        weakref.finalize(self, self._file.close)

    def append(self, case: Case) -> None:
        row = (case.case, case.image_ids, case.detail)
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

    def __iter__(self) -> Iterator[Case]:
        self._file.seek(0)
        for line in self._file:
            case, image_ids, detail = json.loads(line.decode("utf-8", "surrogatepass"))
            yield Case(case, tuple(image_ids), detail)


@dataclass(frozen=True)
class Finding:
    """One kind of trouble: how often, a sentence that reads on from the number, up to EXAMPLES_KEPT ids of where.

    ``cases`` are all of them.
    """

    code: str
    severity: Severity
    count: int
    sentence: str
    examples: tuple[str, ...] = ()
    cases: Iterable[Case] = field(default=(), compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``, with every case."""
        cases = [{"case": one.case, "image_ids": list(one.image_ids), "detail": one.detail} for one in self.cases]
        return {
            "code": self.code,
            "severity": self.severity,
            "count": self.count,
            "sentence": self.sentence,
            "examples": list(self.examples),
            "cases": cases,
        }

    def text(self) -> str:
        """One line for people."""
        shown = ", ".join(self.examples[:EXAMPLES_SHOWN])
        more = ", ..." if self.count > EXAMPLES_SHOWN else ""
        return f"{self.severity:<8}{self.count:>7,}  {self.sentence}" + (f" ({shown}{more})" if shown else "")


class Tally:
    """Counts occurrences, keeps the first examples at hand and all of them on disk."""

    def __init__(self) -> None:
        self.count = 0
        self._examples: list[str] = []
        self._cases = Cases()

    def add(self, example: str, *image_ids: str, detail: str = "") -> None:
        self.count += 1
        if len(self._examples) < EXAMPLES_KEPT:
            self._examples.append(example)
        self._cases.append(Case(example, image_ids, detail))

    def add_image(self, image_id: str) -> None:
        self.add(image_id, image_id)

    def add_same(self, image_ids: Iterable[str], detail: str = "") -> None:
        """Images that are the same in some respect."""
        named = tuple(image_ids)
        self.add(" = ".join(named), *named, detail=detail)

    @classmethod
    def of(cls, examples: Iterable[str]) -> "Tally":
        tally = cls()
        for example in examples:
            tally.add(example)
        return tally

    def finding(self, code: str, severity: Severity, sentence: str) -> Iterator[Finding]:
        """The finding, its ``sentence`` about what was counted; nothing when nothing was."""
        if self.count:
            yield Finding(code, severity, self.count, sentence, tuple(self._examples), self._cases)
