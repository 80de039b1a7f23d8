"""A data set of the Hub, opened by its name: its tables, what it is, and its manifest."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pfcvr.errors import DataError, StageStopped, first_line
from pfcvr.files import DISK_FULL, sha256_file, sha256_json
from pfcvr.hub import MANIFEST_NAME, check_token, must_be_there, patiently


def load_hub_tables(name: str) -> tuple[dict[str, Any], str, Path | None]:
    """Tables by split, the fingerprint, and the manifest of the export where there is one.

    What ``pfcvr-data push`` published is known by its manifest, so that it is the same data on every machine; another
    data set by what was downloaded.

    Raises:
        HubError: the Hub has no such data set, or was not reached.
        DataError: it has one that ``load_dataset`` cannot read.
        StageStopped: the disk is full.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    check_token(name)
    asked = f"{name}: no such folder here, and on the Hub"
    must_be_there(name, "dataset", asked)
    try:
        with full_cache_stops(name):
            tables: dict[str, Any] = patiently(asked, lambda: load_dataset(name), waits=())
    except (OSError, ValueError, DatasetsError) as error:
        reason = first_line(error.__cause__ or error)
        raise DataError(
            f"{name}: neither a folder here nor a data set that the Hub gives ({reason}); check the name"
        ) from error
    manifest = _manifest(name, asked)
    if manifest is None:
        return tables, sha256_json({split: table._fingerprint for split, table in tables.items()}), None
    return tables, sha256_file(manifest), manifest


@contextmanager
def full_cache_stops(source: str) -> Iterator[None]:
    """Turn a full disk into StageStopped: the datasets library keeps a copy of what it opens, and reads that."""
    from datasets import config
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, DatasetsError) as error:
        cause = error.__cause__ or error
        if not isinstance(cause, OSError) or cause.errno not in DISK_FULL:
            raise
        raise StageStopped(
            f"{source}: the disk is full on which the datasets library keeps its copies ({config.HF_DATASETS_CACHE}); "
            "free some space there or set HF_DATASETS_CACHE to a folder elsewhere, and run the same command again"
        ) from None


def _manifest(name: str, asked: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def download() -> Path | None:
        try:
            return Path(hf_hub_download(name, MANIFEST_NAME, repo_type="dataset"))
        except EntryNotFoundError:
            return None

    return patiently(asked, download, waits=())
