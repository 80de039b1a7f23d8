"""Load a data set back from the Hub and compare it, row by row, with the folder that was published."""

from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pfcvr.errors import HubError
from pfcvr.hub import hub_cause, patiently, read_manifest

ROWS_AT_ONCE = 200


def same_rows(folder: Path, repository: str, commit: str) -> int:
    """Read every row of ``commit`` through ``load_dataset``, as a stream; how many there are.

    Raises HubError when the Hub does not give them, or gives other rows than ``folder`` holds.
    """
    return patiently(repository, lambda: _compare(folder, repository, commit))


def _compare(folder: Path, repository: str, commit: str) -> int:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    expected: dict[str, dict[str, int]] = read_manifest(folder)["splits"]
    with TemporaryDirectory() as cache:
        here = load_dataset(str(folder), streaming=True, cache_dir=cache)
        try:
            there = load_dataset(repository, revision=commit, streaming=True, cache_dir=cache)
            if set(there) != set(expected):
                raise HubError(f"{repository}: {_other('splits')}")
            return sum(_same_split(here[split], there[split], repository) for split in expected)
        except (ValueError, DatasetsError, ArrowException) as error:
            if hub_cause(error) is not None:
                raise
            raise HubError(
                f"{repository}: what was published cannot be loaded back ({type(error).__name__}); run the same "
                "command again, and look at the repository's files if that does not help"
            ) from error


def _same_split(here: Any, there: Any, repository: str) -> int:
    rows = 0
    batches = (table.with_format("arrow").iter(ROWS_AT_ONCE) for table in (here, there))
    for ours, theirs in zip_longest(*batches):
        if ours is None or theirs is None or not ours.equals(theirs):
            raise HubError(f"{repository}: {_other('rows')}")
        rows += len(ours)
    return rows


def _other(what: str) -> str:
    return (
        f"other {what} were loaded back than were published; run the same command again, and look at the repository's "
        "files if that does not help"
    )
