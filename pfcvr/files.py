"""Files that are whole or absent: write beside, flush to disk, rename. And hashes of files and of settings."""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pfcvr.errors import LockedError, StageStopped

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under ``path`` complete and flushed to disk, or not at all."""
    beside = path.with_name(f".{path.name}.partial")
    with beside.open("wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            beside.unlink(missing_ok=True)  # after a kill it stays, and the next one to write replaces it
            raise
    beside.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON with sorted keys, atomically."""
    with atomic_write(path) as file:
        file.write(canonical_json(value, indent=2).encode() + b"\n")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty when there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def canonical_json(value: Any, indent: int | None = None) -> str:
    """JSON text that depends on the value alone: keys sorted, paths as text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=indent, default=str)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of the bytes of ``path``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of ``value`` as canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@contextmanager
def process_lock(path: Path, doing: str) -> Iterator[None]:
    """Hold the file ``path`` as its folder's lock; raises LockedError with the pid of the process that is ``doing`` so.

    A POSIX record lock dies with its process and is not inherited by children.
    """
    with path.open("ab+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read().decode().strip() or "unknown"
            raise LockedError(f"{path.parent}: process {holder} is {doing}; wait for it or stop it") from None
        with disk_full_stops(str(path.parent)):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield
        file.truncate(0)


def lock_holder(path: Path) -> str | None:
    """The pid of another process that holds the file ``path`` as a lock; None where none does.

    Not for the holder itself: a record lock ends when its process closes the file, however often that is open.
    """
    try:
        with path.open("rb") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                return file.read().decode().strip() or "unknown"
    except FileNotFoundError:
        pass
    return None


@contextmanager
def disk_full_stops(what: str) -> Iterator[None]:
    """Turn a full disk into StageStopped: ``what`` can be continued once there is room."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        place = f" at {error.filename}" if error.filename else ""
        raise StageStopped(
            f"{what}: the disk is full{place}; free some space and run the same command to continue"
        ) from error
