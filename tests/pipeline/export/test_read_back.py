"""What a disk wrote wrongly is found before an export is sealed, whatever the form and wherever the damage."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from pfcvr.config import ExportConfig
from pfcvr.errors import WorkspaceError
from pfcvr.pipeline import export
from pfcvr.pipeline.exporters import coco, official, shards, webdataset
from pfcvr.pipeline.exporters.read_back import Tally
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)
READERS: dict[str, tuple[Any, str]] = {
    "hf": (shards, "verify_shards"),
    "annotations": (shards, "verify_shards"),
    "official": (official, "verify_tree"),
    "coco": (coco, "verify_files"),
    "webdataset": (webdataset, "verify_shards"),
}
OFFICIAL_LIST = "reid_with_mask_prompt_and_boxes_filepath_prefixid_idsplit_70_30.json"
NOT_READ_BACK = ("left_out.jsonl", ".pfcvr-dataset.unfinished")


def written(small, out: Path, form: str, **settings: Any) -> None:
    export.run(small.workspace, ExportConfig.model_validate({"out": out, "format": form, **settings}), QUIET)


def before_reading_back(monkeypatch: pytest.MonkeyPatch, form: str, act: Callable[[Callable[[], None]], None]) -> None:
    """``act`` is called in place of the form's own reading back, which it is given."""
    place, name = READERS[form]
    real = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *arguments: act(lambda: real(*arguments)))


def held(path: Path) -> Any:
    """What a reader gets of a file; of a picture its bytes."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        return parquet.read_table(io.BytesIO(content)).to_pylist()
    if path.suffix == ".json":
        return json.loads(content)
    if path.suffix == ".tar":
        with tarfile.open(fileobj=io.BytesIO(content)) as shard:
            return [(entry.name, shard.extractfile(entry).read()) for entry in shard]
    return content


@pytest.mark.parametrize("form", READERS)
def test_a_bit_that_flipped_anywhere_is_found_or_changes_nothing_that_is_read(whole, tmp_path, monkeypatch, form):
    rng = np.random.default_rng(7)
    found = harmless = 0
    done: set[Path] = set()

    def is_due(path: Path) -> bool:
        """Shards get their names a split at a time, before they are read back."""
        return path.suffix != ".unnamed" and path not in done

    def damage_and_read(read_back: Callable[[], None]) -> None:
        nonlocal found, harmless
        files = [path for path in sorted((tmp_path / ".out.partial").rglob("*")) if path.is_file()]
        files = [path for path in files if path.name not in NOT_READ_BACK and is_due(path)]
        for path in rng.choice(np.array(files, object), 25):
            whole_file, before = path.read_bytes(), held(path)
            damaged = bytearray(whole_file)
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            try:
                read_back()
            except WorkspaceError:
                found += 1
            else:
                assert held(path) == before, path
                harmless += 1
            path.write_bytes(whole_file)
        read_back()
        done.update(files)

    before_reading_back(monkeypatch, form, damage_and_read)
    written(whole, tmp_path / "out", form, **({"copies": True} if form == "official" else {}))
    assert (tmp_path / "out").is_dir()
    assert found > harmless


DAMAGES = {
    "coco": [
        ("annotations/instances_train.json", b'"bbox": [3.0', b'"bbox": [4.0'),
        ("annotations/instances_train.json", b'"area": 9', b'"area": 8'),
        ("annotations/instances_train.json", b'"counts": "', b'"counts": "0'),
        ("annotations/instances_train.json", b'"image_id": "00', b'"image_id": "10'),
        ("annotations/instances_train.json", b'"name": "roof"', b'"name": "Roof"'),
        ("annotations/captions_train.json", b"A vehicle", b"A Vehicle"),
        ("annotations/captions_test.json", b"\n]}\n", b"\n"),
    ],
    "official": [
        (OFFICIAL_LIST, b'"id": ', b'"id": 1'),
        (OFFICIAL_LIST, b"[0, 0", b"[0, 1"),
        (OFFICIAL_LIST, b"A vehicle", b"A Vehicle"),
        (OFFICIAL_LIST, b'"split": "val"', b'"split": "Val"'),
        (OFFICIAL_LIST, b"\n]\n", b"\n"),
        ("vehicle_ids.json", b'"00012"', b'"00013"'),
        ("boxes/00001_000001.json", b"[0, 0", b"[0, 1"),
        ("Darkimage/dark_00003_000006.png", b"IDAT", b"IDAS"),
    ],
    "webdataset": [
        ("train-00000.tar", b"A vehicle", b"A Vehicle"),
        ("train-00000.tar", b"_000011.json", b"_100011.json"),
        ("train-00000.tar", b"IHDR", b"IHDS"),
    ],
}


@pytest.mark.parametrize("form", DAMAGES)
def test_a_wrong_id_box_run_length_count_or_word_is_not_sealed(whole, tmp_path, monkeypatch, form) -> None:
    def damage_and_read(read_back: Callable[[], None]) -> None:
        for file, old, new in DAMAGES[form]:
            path = tmp_path / ".out.partial" / file
            content = path.read_bytes()
            assert old in content
            path.write_bytes(content.replace(old, new, 1))
            with pytest.raises(WorkspaceError, match=r"\.out\.partial.*; run the export again$"):
                read_back()
            if (file, old, new) != DAMAGES[form][-1]:
                path.write_bytes(content)
        read_back()

    before_reading_back(monkeypatch, form, damage_and_read)
    with pytest.raises(WorkspaceError, match=r"\.out\.partial.*; run the export again$"):
        written(whole, tmp_path / "out", form, **({"copies": True} if form == "official" else {}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["coco", "official"])
@pytest.mark.parametrize("images", [{}, {"images": "link"}], ids=["copied", "linked"])
def test_an_image_file_that_is_gone_or_cut_off_is_not_sealed(whole, tmp_path, monkeypatch, form, images) -> None:
    if form == "official" and images:
        images = {"copies": True}
    for number, harm in enumerate((Path.unlink, cut_off)):

        def damage_and_read(read_back: Callable[[], None], number=number, harm=harm) -> None:
            harm(sorted((tmp_path / f".{number}.partial").glob("image*/*.png"))[0])
            read_back()

        with monkeypatch.context() as broken:
            before_reading_back(broken, form, damage_and_read)
            with pytest.raises(WorkspaceError, match="run the export again"):
                written(whole, tmp_path / str(number), form, **images)
        assert not (tmp_path / str(number)).exists()


def test_a_shard_whose_image_is_not_the_hashed_one_or_no_image_is_named(whole, tmp_path) -> None:
    written(whole, tmp_path / "out", "hf")
    shard = tmp_path / "out" / "data" / "test-00000-of-00001.parquet"
    table = parquet.read_table(shard)
    rows = table.to_pylist()
    rows[-1]["image"]["bytes"] = rows[-1]["image"]["bytes"][:-1]
    parquet.write_table(type(table).from_pylist(rows, table.schema), shard)
    with pytest.raises(WorkspaceError, match=f"the image of {rows[-1]['image_id']} was not written whole"):
        shards.verify_shards([shard], Tally())
    rows[-1] |= {"image": {"bytes": b"text", "path": ""}, "sha256": hashlib.sha256(b"text").hexdigest()}
    parquet.write_table(type(table).from_pylist(rows, table.schema), shard)
    with pytest.raises(WorkspaceError, match=f"the image of {rows[-1]['image_id']} cannot be opened"):
        shards.verify_shards([shard], Tally())


def cut_off(path: Path) -> None:
    """Of a file that may be a hard link of the source's, whose bytes stay."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])


def test_coco_of_a_reference_needs_no_image_files(whole, tmp_path) -> None:
    written(whole, tmp_path / "out", "coco", images="reference")
    assert not (tmp_path / "out" / "images").exists()
