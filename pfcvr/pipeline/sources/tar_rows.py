"""The rows of a data set that was exported as ``webdataset``: tar files of samples, each a picture and its JSON."""

import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from pfcvr.errors import SourceError
from pfcvr.pipeline.json_stream import MAX_VALUE_CHARACTERS

FOLDER = "images"


def tar_shards(source: Path) -> list[Path]:
    """The tar files directly in ``source``."""
    return sorted(path for path in source.glob("*.tar") if path.is_file())


def tar_rows(source: Path) -> Iterator[tuple[str, dict[str, Any], Callable[[], bytes | None]]]:
    """(split, row without pixels, what reads its pixels) of every sample; raises SourceError for a tar that is damaged.

    A sample is what follows one another under one name, up to its first dot. Without JSON its row is empty.
    """
    for path in tar_shards(source):
        split = path.name.partition("-")[0]
        with _reading(path), tarfile.open(path, "r:") as shard:
            for _, sample in groupby(filter(tarfile.TarInfo.isreg, shard), _key):
                files = {entry.name.endswith(".json"): entry for entry in sample}
                row = _row(shard, files[True]) if True in files else {}
                if False in files:
                    row["image"] = {"path": f"{FOLDER}/{files[False].name.rpartition('/')[2]}"}
                yield split, row, partial(_pixels, path, shard, files.get(False))


def _key(entry: tarfile.TarInfo) -> tuple[str, str]:
    folder, _, name = entry.name.rpartition("/")
    return folder, name.partition(".")[0]


def _row(shard: tarfile.TarFile, entry: tarfile.TarInfo) -> dict[str, Any]:
    """The object in a JSON file; empty where there is something else, or more than a row can be."""
    file = shard.extractfile(entry) if entry.size <= MAX_VALUE_CHARACTERS else None
    try:
        row = json.loads(file.read()) if file is not None else None
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _pixels(path: Path, shard: tarfile.TarFile, entry: tarfile.TarInfo | None) -> bytes | None:
    with _reading(path):
        file = None if entry is None else shard.extractfile(entry)
        return None if file is None else file.read()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, EOFError) as error:
        what = " ".join(str(error).split())[:120]
        raise SourceError(f"{path}: cannot be read as tar ({what}); get the file anew") from None
