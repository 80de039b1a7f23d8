"""An output folder that is whole or absent: built beside its place under another name, then renamed."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfcvr.errors import SealedError, WorkspaceError
from pfcvr.files import process_lock, read_object, sync_folder, write_json
from pfcvr.wording import differences

MANIFEST = "pfcvr.json"


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
                f"{self.place}: holds a data set made from other inputs: "
                f"{differences(manifest['fingerprint'], self.fingerprint)}; rerun with --overwrite to replace it"
            )
        for name, size in manifest["sizes"].items():
            file = self.place / name
            if not file.is_file() or file.stat().st_size != size:
                raise SealedError(
                    f"{self.place}: {name} was removed or altered since it was written; "
                    "rerun with --overwrite to write the data set again"
                )
        return manifest

    def is_outdated(self) -> bool:
        """Whether one of ours made from other inputs stands there; raises WorkspaceError when it is not ours."""
        manifest = self._manifest()
        return manifest is not None and manifest["fingerprint"] != self.fingerprint

    def build(self, fill: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Let ``fill`` write into a fresh folder, add the manifest that it returns, and put the folder in place.

        Whatever an earlier, unfinished build left is removed first. Raises LockedError while another process builds it.
        """
        place = self.place.resolve()  # a link keeps pointing where it points
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{place.name}.partial")
        self._check_ours(beside)
        beside.mkdir(exist_ok=True)
        with process_lock(self._marker(beside), "writing this data set"):
            _remove_all(beside, but=self._marker(beside).name)
            manifest = fill(beside)
            manifest |= {"kind": self.kind, "fingerprint": self.fingerprint, "sizes": _flush(beside)}
            del manifest["sizes"][self._marker(beside).name]
            write_json(beside / MANIFEST, manifest)
            self._marker(beside).unlink()
            sync_folder(beside)
            self._put_in_place(beside, place)
        return manifest

    def _marker(self, folder: Path) -> Path:
        """The lock of an unfinished folder; that it is there tells whose the folder is."""
        return folder / f".{self.kind}.unfinished"

    def _manifest(self) -> dict[str, Any] | None:
        """The manifest at ``place``; None for no folder or an empty one; raises WorkspaceError for somebody else's."""
        if not self.place.exists() or (self.place.is_dir() and not any(self.place.iterdir())):
            return None
        manifest = read_object(self.place / MANIFEST)
        if manifest.get("kind") != self.kind:
            raise WorkspaceError(
                f"{self.place}: exists and was not written by this command; give the path of a new folder"
            )
        return manifest

    def _check_ours(self, beside: Path) -> None:
        if not os.path.lexists(beside) or self._marker(beside).exists():
            return
        if read_object(beside / MANIFEST).get("kind") != self.kind and (not beside.is_dir() or any(beside.iterdir())):
            raise WorkspaceError(f"{beside}: is in the way and was not written by this command; move it elsewhere")

    def _put_in_place(self, beside: Path, place: Path) -> None:
        """Rename ``beside`` to ``place``; what stood there leaves only once its successor is complete."""
        before = place.with_name(f".{place.name}.replaced")
        self._remove_replaced(before)
        if place.exists():
            place.rename(before)
        beside.rename(place)
        sync_folder(place.parent)
        self._remove_replaced(before)

    def _remove_replaced(self, before: Path) -> None:
        """Remove what an earlier, perhaps killed, replacement has put aside."""
        if before.exists() and (read_object(before / MANIFEST).get("kind") == self.kind or not any(before.iterdir())):
            # The file that tells whose it is goes last, so that a killed removal can be continued.
            _remove_all(before, but=MANIFEST)
            shutil.rmtree(before)


def _remove_all(folder: Path, but: str) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != but:
            path.unlink()


def _flush(folder: Path) -> dict[str, int]:
    """Force every file to disk; size of each by its name."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
        elif path.is_dir():
            sync_folder(path)
    return sizes
