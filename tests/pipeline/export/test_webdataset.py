"""The WebDataset form, read by the webdataset library itself."""

import json
from pathlib import Path

import numpy as np
import pytest

from pfcvr import geometry
from pfcvr.config import ExportConfig
from pfcvr.errors import WorkspaceError
from pfcvr.pipeline import export
from pfcvr.pipeline.exporters import webdataset
from pfcvr.records import ImageParts, VehicleSplit
from pfcvr.stage import RunOptions


def export_to(small, out: Path) -> export.ExportSummary:
    config = ExportConfig(out=out, format="webdataset")
    return export.run(small.workspace, config, RunOptions(quiet=True))


def samples_of(out: Path, split: str) -> list[dict]:
    """What the library makes of the shards; it leaves files open that it opens itself."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    samples = []
    for path in sorted(out.glob(f"{split}-*.tar")):
        with path.open("rb") as stream:
            samples += list(group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])))
    return samples


def test_webdataset_reads_every_picture_with_all_that_is_known_of_it(whole, tmp_path) -> None:
    summary = export_to(whole, tmp_path / "out")
    images = {image.image_id: image for image in whole.images}
    parts = {row.image_id: row for row in whole.workspace.records("parts", ImageParts)}
    splits = {row.vehicle_id: row.split for row in whole.workspace.records("split", VehicleSplit)}
    seen = []
    for split, counts in summary.splits.items():
        samples = samples_of(tmp_path / "out", split)
        assert len(samples) == counts["images"]
        for sample in samples:
            row = json.loads(sample["json"])
            image = images[row["image_id"]]
            seen.append(row["image_id"])
            assert sample["__key__"] == row["image_id"].replace("/", "_")
            assert sample["png"] == (whole.source / image.path).read_bytes()
            assert splits[row["vehicle_id"]] == split
            assert row["captions"] == [f"A vehicle that looks like {image.image_id}."]
            assert np.array_equal(row["part_grid"], geometry.grid_array(parts[image.image_id].grid))
            assert [part["part"] for part in row["parts"]] == [i.part for i in parts[image.image_id].instances]
    assert seen != []
    assert sorted(seen) == sorted(images)


def test_pictures_decode_in_the_library_and_shards_are_divided_between_samples(whole, tmp_path, monkeypatch) -> None:
    from webdataset.autodecode import Decoder, imagehandler

    monkeypatch.setattr(webdataset, "FILES_PER_SHARD", 4)
    summary = export_to(whole, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.tar"))) > 3
    decode = Decoder([imagehandler("pil")])
    decoded = [decode(sample) for split in summary.splits for sample in samples_of(tmp_path / "out", split)]
    assert len(decoded) == 14
    assert {sample["png"].size for sample in decoded} == {(40, 24)}
    assert all(sample["json"]["captions"] for sample in decoded)


def test_shard_that_lost_a_byte_on_its_way_to_the_disk_is_found_out(whole, tmp_path, monkeypatch) -> None:
    close = webdataset._Shards.close

    def close_and_damage(shards) -> None:
        close(shards)
        for path in shards.paths["train"]:
            content = bytearray(path.read_bytes())
            content[content.index(b"IHDR")] ^= 1
            path.write_bytes(content)

    monkeypatch.setattr(webdataset._Shards, "close", close_and_damage)
    with pytest.raises(WorkspaceError, match=r"train-00000.tar: the image of .* was not written whole"):
        export_to(whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()
