"""What lies in a folder, to be compared with what lies in another."""

from collections.abc import Collection
from pathlib import Path


def files_of(folder: Path, but: Collection[str] = ()) -> dict[str, bytes]:
    """The bytes of every file below ``folder`` by its path there; files with a name of ``but`` are left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in but)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
