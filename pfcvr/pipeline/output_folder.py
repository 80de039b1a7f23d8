"""An output folder that is whole or absent: built beside its place under another name, then renamed."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfcvr.errors import SealedError, WorkspaceError
from pfcvr.files import sync_folder, write_json

MANIFEST = "pfcvr.json"
UNFINISHED = "pfcvr-unfinished.json"


@dataclass(frozen=True)
class OutputFolder:
    """A folder of ours at ``place``: its ``pfcvr.json`` tells its ``kind`` and the ``fingerprint`` of its inputs."""

    place: Path
    kind: str
    fingerprint: dict[str, Any]

    def finished(self, overwrite: bool) -> dict[str, Any] | None:
        """The manifest when the very same output stands there already, None when it is to be built.

        Raises SealedError when it was made from other inputs or was altered, WorkspaceError when it is not ours.
        """
        manifest = self._manifest()
        if manifest is None or overwrite:
            return None
        if manifest["fingerprint"] != self.fingerprint:
            raise SealedError(
                f"{self.place}: holds a data set made from other inputs; rerun with --overwrite to replace it"
            )
        for name, size in manifest["sizes"].items():
            file = self.place / name
            if not file.is_file() or file.stat().st_size != size:
                raise SealedError(
                    f"{self.place}: {name} was removed or altered since it was written; "
                    "rerun with --overwrite to write the data set again"
                )
        return manifest

    def build(self, fill: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Let ``fill`` write into a fresh folder, add the manifest that it returns, and put the folder in place.

        Whatever an earlier, unfinished build left is removed first.
        """
        self.place.parent.mkdir(parents=True, exist_ok=True)
        beside = self.place.with_name(f".{self.place.name}.partial")
        self._clear_unfinished(beside)
        beside.mkdir()
        write_json(beside / UNFINISHED, {"kind": self.kind})
        manifest = fill(beside)
        manifest |= {"kind": self.kind, "fingerprint": self.fingerprint, "sizes": _flush(beside)}
        write_json(beside / MANIFEST, manifest)
        (beside / UNFINISHED).unlink()
        sync_folder(beside)
        self._put_in_place(beside)
        return manifest

    def _manifest(self) -> dict[str, Any] | None:
        """The manifest at ``place``; None for no folder or an empty one; raises WorkspaceError for somebody else's."""
        if not self.place.exists() or (self.place.is_dir() and not any(self.place.iterdir())):
            return None
        manifest = _read_object(self.place / MANIFEST)
        if manifest.get("kind") != self.kind:
            raise WorkspaceError(
                f"{self.place}: exists and was not written by this command; give the path of a new folder"
            )
        return manifest

    def _clear_unfinished(self, beside: Path) -> None:
        if not beside.exists():
            return
        ours = _read_object(beside / UNFINISHED).get("kind") or _read_object(beside / MANIFEST).get("kind")
        if ours != self.kind and (not beside.is_dir() or any(beside.iterdir())):
            raise WorkspaceError(f"{beside}: is in the way and was not written by this command; move it elsewhere")
        _remove(beside)

    def _put_in_place(self, beside: Path) -> None:
        """Rename ``beside`` to ``place``; what stood there leaves only once its successor is complete."""
        before = self.place.with_name(f".{self.place.name}.replaced")
        self._remove_replaced(before)
        if self.place.exists():
            self.place.rename(before)
        beside.rename(self.place)
        sync_folder(self.place.parent)
        self._remove_replaced(before)

    def _remove_replaced(self, before: Path) -> None:
        """Remove what an earlier, perhaps killed, replacement has put aside."""
        if before.exists() and (_read_object(before / MANIFEST).get("kind") == self.kind or not any(before.iterdir())):
            _remove(before)


def _remove(folder: Path) -> None:
    """Remove a folder of ours; the files that tell whose it is go last, so that a killed removal can be continued."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (MANIFEST, UNFINISHED):
            path.unlink()
    shutil.rmtree(folder)


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty when there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _flush(folder: Path) -> dict[str, int]:
    """Force every file to disk; size of each by its name."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != UNFINISHED:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
        elif path.is_dir():
            sync_folder(path)
    return sizes
