"""``--format webdataset``: tar files of ``NAME.jpg`` and ``NAME.json``, a split at a time, for streamed training.

``<split>-<number>.tar``. The picture is the file as imported; the JSON has the columns of ``hf`` without it. Every
tar is read back before sealing.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pfcvr.config import ExportConfig
from pfcvr.files import sha256_file
from pfcvr.pipeline.exporters import ExportFacts, ExportItem, Refusal
from pfcvr.pipeline.exporters.file_names import FileNames, ending, safe_name
from pfcvr.pipeline.exporters.read_back import Tally, WrittenPicture, check_pictures, reading_back
from pfcvr.pipeline.exporters.rows import annotation_row
from pfcvr.pipeline.exporters.shards import SplitCounts
from pfcvr.pipeline.joined import JoinedImage
from pfcvr.records import Split

BYTES_PER_SHARD = 512 << 20
FILES_PER_SHARD = 20_000  # a tar file keeps its table of contents in memory


class WebDatasetExporter:
    """See the module."""

    needed_stages: tuple[str, ...] = ()

    def __init__(self, config: ExportConfig) -> None:
        self._names = FileNames()

    def refuse(self, joined: JoinedImage) -> Refusal | None:
        """Images whose name another one has, or whose name is too long for a file."""
        return self._names.refuse(joined.image)

    def write(self, items: Iterable[ExportItem], facts: ExportFacts, folder: Path) -> dict[str, Any]:
        """The tar files and their counts and hashes; every file in them is read back and compared."""
        counts, shards = SplitCounts(), _Shards(folder)
        with closing(shards):
            for item in items:
                row = annotation_row(item, facts)
                counts.add(item.split, row["vehicle_id"], len(row["captions"]))
                text = json.dumps(row | {"part_grid": row["part_grid"].tolist()}, ensure_ascii=False)
                name = safe_name(item.image)
                shards.add(item.split, {f"{name}{ending(item.image)}": item.pixels, f"{name}.json": text.encode()})
        written = sorted(path for paths in shards.paths.values() for path in paths)
        verify_shards(folder, written, shards.meant)
        return {"splits": counts.as_dict(), "files": {path.name: sha256_file(path) for path in written}}


class _Shards:
    """The tar files of every split; ``meant`` is what is in them. A sample is never divided between two."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.meant = Tally()
        self.paths: dict[Split, list[Path]] = {}
        self._open: dict[Split, tarfile.TarFile] = {}
        self._files: dict[Split, int] = {}

    def add(self, split: Split, files: dict[str, bytes]) -> None:
        """One sample."""
        size = sum(map(len, files.values()))
        shard = self._open.get(split)
        if shard and (shard.offset + size > BYTES_PER_SHARD or self._files[split] >= FILES_PER_SHARD):
            self._open.pop(split).close()
        if split not in self._open:
            paths = self.paths.setdefault(split, [])
            paths.append(self._folder / f"{split}-{len(paths):05d}.tar")
            self._files[split] = 0
            self._open[split] = tarfile.TarFile(paths[-1], "w", format=tarfile.PAX_FORMAT)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)  # its time and owner are those of nobody, so equal rows give equal bytes
            entry.size = len(content)
            self._open[split].addfile(entry, io.BytesIO(content))
            self.meant.add(f"{self.paths[split][-1].name}: {name}", content)
        self._files[split] += len(files)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def verify_shards(folder: Path, paths: Iterable[Path], meant: Tally) -> None:
    """Read ``paths`` back: every file in them must be what was ``meant``, every picture the one that its JSON names.

    Raises WorkspaceError naming the picture that is not, or ``folder``.
    """
    found = Tally()
    for path in paths:
        with reading_back(path):
            check_pictures(path, _pictures(path, found))
    meant.check(found, folder)


def _pictures(path: Path, found: Tally) -> Iterator[WrittenPicture]:
    """The pictures of one tar, each followed by its JSON; every file is counted in ``found``."""
    picture = b""
    with tarfile.open(path, "r|") as shard:
        for entry in shard:
            file = shard.extractfile(entry)
            content = file.read() if file is not None else b""
            found.add(f"{path.name}: {entry.name}", content)
            if entry.name.endswith(".json"):
                row = json.loads(content)
                yield WrittenPicture(row["image_id"], picture, row["sha256"], row["width"], row["height"])
            else:
                picture = content
