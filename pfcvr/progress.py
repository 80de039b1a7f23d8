"""Progress of a long run on stderr: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

SECONDS_BETWEEN_LINES = 10.0
REASONS_SHOWN = 3


class Progress:
    """Counts kept and rejected rows and shows rate, time left and the commonest reasons for rejection.

    ``live`` is asked for what else there is to say whenever a line is shown.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        done: int = 0,
        quiet: bool = False,
        unit: str = "row",
        *,
        live: Callable[[], str] = str,
    ) -> None:
        from tqdm import tqdm

        self._title = title
        self._total = total
        self._count = self._first = self._last_printed = done
        self._reasons: Counter[str] = Counter()
        self._started = self._last_line = time.monotonic()
        self._quiet = quiet
        self._unit = unit
        self._live = live
        on_terminal = sys.stderr.isatty() and not quiet
        self._bar = tqdm(total=total, initial=done, desc=title, unit=unit, file=sys.stderr) if on_terminal else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif not self._quiet and self._count > self._last_printed:
            self._print_line()

    def advance(self, rows: int = 1, rejected_because: str | None = None) -> None:
        """``rows`` more are done; ``rejected_because`` is the reason if they were rejected."""
        self._count += rows
        if rejected_because is not None:
            self._reasons[rejected_because] += rows
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(filter(None, [self._live(), self._top_reasons()])), refresh=False)
            self._bar.update(rows)
        elif not self._quiet and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line()

    def _top_reasons(self) -> str:
        return ", ".join(f"{reason}: {count}" for reason, count in self._reasons.most_common(REASONS_SHOWN))

    def _print_line(self) -> None:
        self._last_line, self._last_printed = time.monotonic(), self._count
        rate = (self._count - self._first) / max(self._last_line - self._started, 1e-9)
        line = f"{self._title}: {self._count:,}"
        if self._total is not None:
            line += f" of {self._total:,}"
        line += f", {rate:,.{0 if rate >= 10 else 1}f} {self._unit}s/s"
        if self._total is not None and rate > 0 and self._count < self._total:
            line += f", {(self._total - self._count) / rate:,.0f} s left"
        if self._live():
            line += f", {self._live()}"
        reasons = self._top_reasons()
        print(line + (f" (rejected: {reasons})" if reasons else ""), file=sys.stderr, flush=True)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, Transformers shows neither bars nor reports: what matters comes as an error of ours."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
