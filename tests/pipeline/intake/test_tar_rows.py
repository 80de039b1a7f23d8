"""Tar files of an exported data set that somebody packed anew: what is wrong with one sample costs that one alone."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from pfcvr.config import ExportConfig, ImportConfig
from pfcvr.errors import SourceError
from pfcvr.pipeline import export, import_
from pfcvr.stage import RunOptions, StageSummary
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)
Files = list[tuple[str, bytes]]


@pytest.fixture
def packed(whole, tmp_path) -> Path:
    """14 images as ``webdataset``."""
    export.run(whole.workspace, ExportConfig(out=tmp_path / "out", format="webdataset"), QUIET)
    return tmp_path / "out"


def taken(packed: Path, root: Path, strict: bool = False) -> StageSummary:
    return import_.run(Workspace(root, create=True), ImportConfig(source=packed, strict=strict), QUIET)


def unpack(path: Path) -> Files:
    with tarfile.open(path) as shard:
        held = [(entry.name, shard.extractfile(entry)) for entry in shard]
        return [(name, file.read()) for name, file in held if file is not None]


def pack(path: Path, files: Files) -> None:
    with tarfile.open(path, "w") as shard:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))


def test_a_set_in_tars_is_recognised_and_taken_whole(packed, tmp_path) -> None:
    summary = taken(packed, tmp_path / "taken", strict=True)
    assert (summary.kept, summary.rejected) == (14, 0)
    assert summary.notes["recognised"] == "pfcvr: found pfcvr.json"


def test_samples_that_lack_a_half_or_are_no_rows_are_refused_one_by_one(packed, tmp_path) -> None:
    shard = packed / "train-00000.tar"
    (_, picture), (name, row), *others = unpack(shard)
    own = json.loads(row)
    pack(
        shard,
        [
            (name, row),
            ("alone.png", picture),
            ("list.png", picture),
            ("list.json", b"[1]"),
            ("cut.png", picture),
            ("cut.json", row[:40]),
            ("swapped.png", picture + b"x"),
            ("swapped.json", row),
            ("../../out.png", picture),
            ("../../out.json", json.dumps(own | {"image_id": "9/9", "vehicle_id": "9"}).encode()),
            *others,
        ],
    )
    summary = taken(packed, tmp_path / "taken")
    assert summary.reasons == {"missing_file": 1, "malformed_line": 3, "changed_file": 1}
    assert summary.kept == 14
    assert not list(tmp_path.glob("*.png"))


def test_a_missing_tar_fails_a_strict_import(packed, tmp_path) -> None:
    (packed / "val-00000.tar").unlink()
    with pytest.raises(SourceError, match=r"val-00000.tar is named by pfcvr.json and not there; split val: 0 rows"):
        taken(packed, tmp_path / "taken", strict=True)


@pytest.mark.parametrize("kept", [700, 0])
def test_a_tar_that_is_cut_off_is_one_sentence(packed, tmp_path, kept: int) -> None:
    shard = packed / "test-00000.tar"
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(SourceError, match=r"test-00000.tar: cannot be read as tar \(.*\); get the file anew"):
        taken(packed, tmp_path / "taken")
