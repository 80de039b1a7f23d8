"""Rows worked on by several threads, each result handed over as soon as it exists."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

ROWS_IN_FLIGHT_PER_WORKER = 4

Row = TypeVar("Row")
Result = TypeVar("Result")


def finished_rows(
    work: Callable[[Row], Result], rows: Iterable[Row], workers: int, give_up: Callable[[], None]
) -> Generator[Result, None, None]:
    """``work(row)`` of each of ``rows`` in order of completion, so that a slow row holds up no other.

    ``rows`` is read little further than the work has come. When the iterator ends early, by an error of ``work`` or
    because it is closed, ``give_up`` is called, rows that wait are dropped, and those at work are waited for.
    """
    finished: SimpleQueue[Future[Result]] = SimpleQueue()
    in_flight = 0
    pool = ThreadPoolExecutor(workers)
    try:
        for row in rows:
            pool.submit(work, row).add_done_callback(finished.put)
            in_flight += 1
            while in_flight >= workers * ROWS_IN_FLIGHT_PER_WORKER or not finished.empty():
                yield finished.get().result()
                in_flight -= 1
        while in_flight:
            yield finished.get().result()
            in_flight -= 1
    except BaseException:
        give_up()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
