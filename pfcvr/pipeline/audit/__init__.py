"""What ``pfcvr-data check`` looks at, one module a subject. Every audit yields findings; none changes anything."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

EXAMPLES_KEPT = 20
EXAMPLES_SHOWN = 3

Severity = Literal["failure", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One kind of trouble: how often, a sentence that reads on from the number, up to EXAMPLES_KEPT ids of where."""

    code: str
    severity: Severity
    count: int
    sentence: str
    examples: tuple[str, ...] = ()

    def text(self) -> str:
        """One line for people."""
        shown = ", ".join(self.examples[:EXAMPLES_SHOWN])
        more = ", ..." if self.count > EXAMPLES_SHOWN else ""
        return f"{self.severity:<8}{self.count:>7,}  {self.sentence}" + (f" ({shown}{more})" if shown else "")


class Tally:
    """Counts occurrences and keeps the first examples."""

    def __init__(self) -> None:
        self.count = 0
        self._examples: list[str] = []

    def add(self, example: str) -> None:
        self.count += 1
        if len(self._examples) < EXAMPLES_KEPT:
            self._examples.append(example)

    @classmethod
    def of(cls, examples: Iterable[str]) -> "Tally":
        tally = cls()
        for example in examples:
            tally.add(example)
        return tally

    def finding(self, code: str, severity: Severity, sentence: str) -> Iterator[Finding]:
        """The finding, its ``sentence`` about what was counted; nothing when nothing was."""
        if self.count:
            yield Finding(code, severity, self.count, sentence, tuple(self._examples))
