"""Pictures that look the same in two splits are found, as a comparison of all pairs finds them."""

import re
import shutil

import cv2
import numpy as np
import pytest
from audits import audit, finding, replace_picture

from pfcvr.cli import data_app, run
from pfcvr.pipeline.audit import look_alikes
from pfcvr.pipeline.pair_sheet import MARGIN, SIDE, draw_pairs


def scene(seed: int, size: int = 96) -> np.ndarray:
    """A smooth random picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 7, 3)).astype(np.uint8)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def copied(small):
    """Image 5 copies image 1 of the other vehicle, and so of the other split; 2 copies 3 of its own vehicle."""
    small.add_images({"1": 4, "2": 4})
    shutil.rmtree(small.workspace.folder("import"))
    for index in range(8):
        replace_picture(small, index, cv2.imencode(".png", scene(index))[1].tobytes())
    for to, (of, quality) in {4: (0, 40), 1: (2, 60)}.items():
        replace_picture(small, to, cv2.imencode(".jpg", scene(of), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    source = {"name": "small", "root": str(small.source), "format": "veri-wild", "licence": "CC0-1.0"}
    images = [image.model_copy(update={"width": 96, "height": 96}) for image in small.images]
    small.seal("import", type(small.images[0]), images, {"sources": [source]})
    small.add_captions()
    small.add_split(ratio=0.5, val=0)
    return small


def test_reencoded_copy_in_another_split_warns_and_one_in_the_same_split_does_not(copied) -> None:
    near = finding(audit(copied), "near_duplicates")
    assert near.examples == ("1/000001 = 2/000005",)
    (case,) = near.cases
    assert case.image_ids == ("1/000001", "2/000005")
    assert re.fullmatch(r"[0-2] of 64 bits, [0-3]\.\d of 255 grey levels apart", case.detail)


def test_pairs_are_drawn_side_by_side_where_there_are_any(copied, whole_elsewhere, tmp_path, capsys) -> None:
    out = tmp_path / "pairs.png"
    command = ["check", "-w", str(copied.workspace.root), "--pairs", str(out)]
    assert run(data_app, "pfcvr-data", command) == 0
    assert "pairs.png: 1 pair\n" in capsys.readouterr().out
    drawn = cv2.imread(str(out)).astype(int)
    left = drawn[MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE]
    right = drawn[MARGIN : MARGIN + SIDE, 2 * MARGIN + SIDE : 2 * MARGIN + 2 * SIDE]
    expected = cv2.resize(scene(0), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(int)
    assert np.abs(left - expected).mean() < 3
    assert np.abs(right - expected).mean() < 12
    none = tmp_path / "none.png"
    run(data_app, "pfcvr-data", ["check", "-w", str(whole_elsewhere.workspace.root), "--pairs", str(none)])
    assert "no near-duplicates to draw" in capsys.readouterr().out
    assert not none.exists()


@pytest.fixture
def whole_elsewhere(build_small, tmp_path):
    return build_small(tmp_path / "elsewhere")


def test_pair_whose_file_is_gone_is_drawn_without_it(copied, tmp_path) -> None:
    cases = list(audit(copied).near_duplicates())
    (copied.source / copied.images[0].path).unlink()
    assert draw_pairs(copied.workspace, cases, tmp_path / "pairs.png") == 1
    drawn = cv2.imread(str(tmp_path / "pairs.png"))
    assert (drawn[MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE] == 255).all()


def test_look_alikes_equal_a_comparison_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 40, dtype=np.uint64)
    rows = []
    for number in range(320):
        value = int(base[number % 40])
        for bit in rng.choice(64, rng.integers(0, 4), replace=False):
            value ^= 1 << int(bit)
        signed = value - 2**64 if value >= 2**63 else value
        thumbnail = bytes([number % 7 // 4 * 20] * 128 + [0] * 128)
        rows.append((f"{number:03d}", f"v{number}", ("train", "test")[number % 3 == 0], f"{number}", signed, thumbnail))
    table = look_alikes.AuditTable()
    table._rows.executemany("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?)", rows)
    pairs = list(look_alikes.look_alikes(table))
    found = sorted(tuple(sorted(pair[:2])) for pair in pairs)
    table.close()
    expected = sorted(
        (one[0], other[0])
        for number, one in enumerate(rows)
        for other in rows[number + 1 :]
        if one[2] != other[2] and ((one[4] ^ other[4]) & (2**64 - 1)).bit_count() <= 2 and one[5] == other[5]
    )
    assert len(expected) > 20
    assert found == expected


def test_flat_pictures_are_not_called_copies_of_each_other() -> None:
    assert look_alikes.fingerprint_of(cv2.imencode(".png", np.full((40, 40, 3), 90, np.uint8))[1].tobytes()) is None
    assert look_alikes.fingerprint_of(b"not a picture") is None
