import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from pfcvr.config import Recipe
from pfcvr.errors import DataError
from pfcvr.geometry import boxes_shares, coverage_grid
from pfcvr.model.data import open_data, training_splits
from pfcvr.model.loading import Division, EpochBatches, TrainPairs, decode, image_loader, train_loader
from pfcvr.model.recipes import load_recipe
from pfcvr.model.tokenizer import caption_tokenizer


@pytest.fixture
def recipe(small_model: tuple[str, ...]) -> Recipe:
    return load_recipe("tiny", small_model)


def pairs_of(path: Path, recipe: Recipe, seed: int = 0) -> TrainPairs:
    data = open_data(str(path))
    rows = data.split("train")
    tokenizer = caption_tokenizer(recipe.model, [text for texts in rows.captions for text in texts])
    return TrainPairs(rows, tokenizer, recipe, data.coverage, seed)


def test_splits_are_opened_with_their_ids_in_order(painted: Path) -> None:
    data = open_data(str(painted))
    assert list(data.splits) == ["train", "val", "test"]
    test = data.split("test")
    assert test.image_ids[:4] == ["015/0", "015/1", "015/2", "016/0"]
    assert test.vehicle_ids[3] == "016"
    assert test.camera_ids[:3] == ["0", "1", "2"]
    assert len(data.split("all")) == 36 + 9 + 15
    assert test.duplicates() == 0


def test_an_item_is_one_image_with_one_caption_in_one_of_four_looks(painted: Path, recipe: Recipe) -> None:
    pairs = pairs_of(painted, recipe)
    assert (pairs.pairs, len(pairs)) == (72, 288)
    texts = [pairs._tokenizer.decode(ids) for ids in pairs[[(0, 0), (0, 3), (0, 4), (0, 8)]].token_ids]
    assert texts[0] == texts[1] == "a red car with green windows ."
    assert texts[2] == "green glass in a red box on wheels"
    assert pairs[[(0, 0), (0, 23), (0, 24), (0, 287)]].identities.tolist() == [0, 0, 1, 11]
    plain = recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"expand": False})})
    assert len(pairs_of(painted, plain)) == 72


def test_an_item_depends_on_seed_epoch_and_number_alone(painted: Path, recipe: Recipe) -> None:
    pairs, again = pairs_of(painted, recipe), pairs_of(painted, recipe)
    first, same, next_epoch, other_seed = (
        pairs[[(1, 5)]],
        again[[(3, 2), (1, 5)]],
        pairs[[(2, 5)]],
        pairs_of(painted, recipe, seed=1)[[(1, 5)]],
    )
    for drawn in ("images", "masked_token_ids", "part_grids", "patch_draws"):
        assert torch.equal(getattr(first, drawn)[0], getattr(same, drawn)[1]), drawn
    assert not torch.equal(first.images, next_epoch.images)
    assert not torch.equal(first.images, other_seed.images)


def test_the_number_of_workers_changes_nothing(painted: Path, recipe: Recipe) -> None:
    pairs = pairs_of(painted, recipe)
    batches = EpochBatches(len(pairs), 32, 5, seed=3)
    alone, helped = (list(train_loader(pairs, batches, workers)) for workers in (0, 2))
    assert len(alone) == 5
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.masked_labels, other.masked_labels)
        assert torch.equal(one.part_grids, other.part_grids)
        assert torch.equal(one.identities, other.identities)


def test_loading_takes_nothing_from_the_runs_random_state(painted: Path, recipe: Recipe) -> None:
    before = torch.get_rng_state()
    list(train_loader(pairs_of(painted, recipe), EpochBatches(288, 100, 3, 0), 2))
    list(image_loader(open_data(str(painted)).split("test"), (32, 32), 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_holds_each_item_once_in_a_new_order() -> None:
    batches = list(EpochBatches(items=23, batch_size=5, total=12, seed=0))
    epochs = [[key for batch in batches for key in batch if key[0] == epoch] for epoch in range(3)]
    assert [len(epoch) for epoch in epochs] == [23, 23, 10]
    for epoch in epochs[:2]:
        assert sorted(item for _, item in epoch) == list(range(23))
    assert [item for _, item in epochs[0]] != [item for _, item in epochs[1]]


@pytest.mark.parametrize("first", [0, 3, 5, 7, 11])
def test_batches_can_be_taken_up_anywhere(first: int) -> None:
    whole = list(EpochBatches(items=23, batch_size=5, total=12, seed=4))
    rest = EpochBatches(items=23, batch_size=5, total=12, seed=4, first=first)
    assert list(rest) == whole[first:]


@pytest.mark.parametrize(("parts", "processes"), [(1, 2), (3, 1), (2, 4)])
def test_processes_and_parts_divide_every_batch_among_them(parts: int, processes: int) -> None:
    """7 pairs a batch, 2 in the last of an epoch: there a process may have none, and holds a pair of the same part."""
    whole = list(EpochBatches(items=23, batch_size=7, total=9, seed=0))
    divided = [
        EpochBatches(items=23, batch_size=7, total=9, seed=0, division=Division(parts, processes, rank))
        for rank in range(processes)
    ]
    streams = [iter(batches) for batches in divided]
    for number, keys in enumerate(whole):
        seen = []
        for pairs in divided[0].parts(number):
            assert max(pairs) - min(pairs) <= 1
            own = [next(stream) for stream in streams]
            assert [len(part) for part in own] == [max(count, 1) for count in pairs]
            of_part = [key for part, count in zip(own, pairs, strict=True) for key in part[:count]]
            assert all(part[0] in of_part for part in own)
            seen += of_part
        assert seen == keys
        assert len(divided[0].parts(number)) == min(parts, len(keys))
    assert [list(stream) for stream in streams] == [[]] * processes


def test_part_grids_come_from_masks_and_boxes_at_the_models_own_grid(painted: Path, recipe: Recipe) -> None:
    still = recipe.augment.model_copy(update={"flip": 0.0, "crop_padding": 0, "erase": 0.0, "expand": False})
    pairs = pairs_of(painted, recipe.model_copy(update={"augment": still}))
    row = open_data(str(painted)).split("train")._table[0]
    grid = pairs[[(0, 0)]].part_grids.reshape(6, 4, 4).numpy()
    for part, index in ((0, 0), (1, 1)):
        x0, y0, x1, y1 = row["parts"][index]["box_xyxy"]
        expected = coverage_grid(boxes_shares([(x0, y0, x1, y1)], (48, 64), 4, 4)[None], 0.5)[0]
        assert np.array_equal(grid[part], expected)
    assert not grid[2:].any()


def _grids_alone(folder: Path, rows: list[dict]) -> Path:
    """A data set that holds patch grids, whatever their size, and neither masks nor boxes."""
    from datasets import Dataset

    (folder / "data").mkdir()
    kept = ("image", "image_id", "vehicle_id", "captions", "part_grid")
    table = Dataset.from_list([{name: row[name] for name in kept} for row in rows])
    table.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    return folder


def test_grids_of_another_size_are_laid_on_the_models_own(
    recipe: Recipe, rows_of: Callable[..., list], tmp_path: Path
) -> None:
    """Grids of 24 x 24 cells, whose upper left quarter is windows, for a model of 4 x 4 patches."""
    grid = np.zeros((6, 24, 24), dtype=bool)
    grid[0, :12, :12] = True
    rows = [{**row, "part_grid": grid.tolist()} for row in rows_of(range(2))]
    still = recipe.augment.model_copy(update={"flip": 0.0, "crop_padding": 0, "erase": 0.0, "expand": False})
    pairs = pairs_of(_grids_alone(tmp_path, rows), recipe.model_copy(update={"augment": still}))
    laid = pairs[[(0, 0)]].part_grids.reshape(6, 4, 4).numpy()
    assert laid[0].tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2
    assert not laid[1:].any()


def test_captions_that_do_not_fit_are_counted(painted: Path, recipe: Recipe) -> None:
    short = recipe.model.model_copy(update={"text_length": 8})
    assert pairs_of(painted, recipe).truncated == 0
    assert pairs_of(painted, recipe.model_copy(update={"model": short})).truncated == 72


@pytest.mark.parametrize("kind", ["cmyk", "grey", "exif", "sixteen"])
def test_unusual_files_become_upright_colour_pixels(
    kind: str, make_data: Callable[..., Path], rows_of: Callable[..., list], image_file: Callable[..., bytes]
) -> None:
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[:, :32] = (200, 60, 60)
    pixels[:24, 32:] = (60, 60, 200)
    rows = rows_of(range(2))
    if kind == "cmyk":
        content = _cmyk(pixels)
    elif kind == "grey":
        pixels = np.repeat(pixels.mean(axis=2).astype(np.uint8)[:, :, None], 3, axis=2)
        content = image_file(pixels[:, :, 0], "JPEG", quality=95)
    elif kind == "sixteen":
        pixels = np.repeat(pixels.mean(axis=2).astype(np.uint8)[:, :, None], 3, axis=2)
        content = image_file(pixels[:, :, 0].astype(np.uint16) * 257, "PNG")
    else:
        exif = Image.Exif()
        exif[0x0112] = 6  # stored turned: shown after a quarter turn clockwise
        content = image_file(np.rot90(pixels, 1), "JPEG", quality=95, exif=exif)
    rows[0]["image"]["bytes"] = content
    seen = decode(open_data(str(make_data(train=rows))).split("train"), 0)
    assert seen.shape == (48, 64, 3)
    inside = np.abs(seen.astype(int) - pixels)[4:20, 4:28].max()
    assert inside <= 12
    assert np.abs(seen.astype(int) - pixels)[4:20, 36:60].max() <= 12


def _cmyk(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_clean_chooses_on_val_and_published_on_test(painted: Path) -> None:
    data = open_data(str(painted))
    clean = training_splits(data, "clean", 0.1, 0)
    assert (len(clean.train), clean.selection_name, len(clean.selection)) == (36, "val", 9)
    published = training_splits(data, "published", 0.1, 0)
    assert (len(published.train), published.selection_name, len(published.selection)) == (45, "test", 15)
    assert "val images are trained on" in published.note


def test_without_a_val_split_identities_leave_train(make_data: Callable[..., Path], rows_of: Callable) -> None:
    data = open_data(str(make_data(train=rows_of(range(10)), test=rows_of(range(10, 12)))))
    chosen = training_splits(data, "clean", 0.2, 7)
    train, val = set(chosen.train.vehicle_ids), set(chosen.selection.vehicle_ids)
    assert (len(train), len(val), train & val) == (8, 2, set())
    assert "no val split: 2 train identities (6 images) were set aside with seed 7" in chosen.note
    again = training_splits(data, "clean", 0.2, 7)
    assert again.selection.image_ids == chosen.selection.image_ids
    others = {tuple(training_splits(data, "clean", 0.2, seed).selection.image_ids) for seed in range(6)}
    assert len(others) > 1


def test_the_coverage_of_the_grids_travels_with_the_data(make_data: Callable[..., Path], rows_of: Callable) -> None:
    path = make_data(train=rows_of(range(3)))
    before = open_data(str(path))
    (path / "pfcvr.json").write_text(json.dumps({"grid": {"rows": 4, "cols": 4, "coverage": 0.3}}))
    after = open_data(str(path))
    assert (before.coverage, after.coverage) == (0.5, 0.3)
    assert before.fingerprint != after.fingerprint


class TestWhatAUserIsTold:
    """Each sentence names the place, what is wrong and what to do."""

    def test_a_folder_without_a_data_set(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no data/SPLIT-\*\.parquet here; give a folder written by pfcvr-data"):
            open_data(str(tmp_path))

    def test_a_name_that_is_nowhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(DataError, match="no/such-set: neither a folder here nor a data set that the Hub gives"):
            open_data("no/such-set")

    def test_a_mistyped_folder_is_not_looked_for_on_the_hub(self) -> None:
        with pytest.raises(DataError, match=r"datset: no such folder; .* or a Hub name OWNER/NAME"):
            open_data("datset")

    def test_a_file_that_is_no_parquet(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"not parquet at all")
        with pytest.raises(DataError, match="cannot be read .* export the data set again"):
            open_data(str(tmp_path))

    def test_a_missing_column(self, tmp_path: Path) -> None:
        from datasets import Dataset

        (tmp_path / "data").mkdir()
        Dataset.from_list([{"image_id": "a", "captions": ["x"]}]).to_parquet(
            str(tmp_path / "data" / "train-00000-of-00001.parquet")
        )
        with pytest.raises(DataError, match="split 'train' has no column image, vehicle_id"):
            open_data(str(tmp_path))

    def test_no_train_split(self, make_data: Callable[..., Path], rows_of: Callable) -> None:
        data = open_data(str(make_data(test=rows_of(range(2)))))
        with pytest.raises(DataError, match="no split 'train' or no image in it; splits here: test"):
            training_splits(data, "clean", 0.1, 0)

    def test_one_identity(self, make_data: Callable[..., Path], rows_of: Callable) -> None:
        data = open_data(str(make_data(train=rows_of(range(1)), val=rows_of(range(1, 3)))))
        with pytest.raises(DataError, match="1 identity in train is too few"):
            training_splits(data, "clean", 0.1, 0)
        alone = open_data(str(make_data(train=rows_of(range(1)))))
        with pytest.raises(DataError, match="1 identity in train is too few"):
            training_splits(alone, "clean", 0.1, 0)

    def test_one_identity_with_captions(self, make_data: Callable[..., Path], rows_of: Callable) -> None:
        rows = [row if row["vehicle_id"] == "000" else {**row, "captions": []} for row in rows_of(range(3))]
        data = open_data(str(make_data(train=rows, val=rows_of(range(3, 5)))))
        with pytest.raises(DataError, match="1 of 3 identities in train has a caption, .* run pfcvr-data caption and"):
            training_splits(data, "clean", 0.1, 0)

    def test_no_captions(self, make_data: Callable[..., Path], rows_of: Callable) -> None:
        rows = [{**row, "captions": ["", "  "]} for row in rows_of(range(3))]
        data = open_data(str(make_data(train=rows, val=rows_of(range(3, 5)))))
        with pytest.raises(DataError, match="no image of split 'train' has a caption"):
            training_splits(data, "clean", 0.1, 0)

    def test_no_pixels(self, make_data: Callable[..., Path], rows_of: Callable) -> None:
        rows = rows_of(range(2))
        rows[1]["image"] = None
        with pytest.raises(DataError, match="image '000/1' has no pixels"):
            open_data(str(make_data(train=rows))).split("train").image_bytes(1)

    def test_pixels_that_are_no_image(self, make_data: Callable[..., Path], rows_of: Callable) -> None:
        rows = rows_of(range(2))
        rows[2]["image"]["bytes"] = b"hello"
        with pytest.raises(DataError, match="image '000/2' cannot be decoded"):
            decode(open_data(str(make_data(train=rows))).split("train"), 2)

    @pytest.mark.parametrize(
        ("changes", "instance", "reason"),
        [
            ({"height": None}, {}, "an image of height None and width 64, expected pixels"),
            ({}, {"mask": None, "box_xyxy": None}, "'windows' has neither a mask nor a box of four finite numbers"),
            ({}, {"mask": None, "box_xyxy": [1.0, 2.0, float("nan"), 4.0]}, "four finite numbers, but [1.0, 2.0, nan"),
            ({}, {"mask": None, "box_xyxy": [1.0, 2.0, 3.0]}, "four finite numbers, but [1.0, 2.0, 3.0]"),
            (
                {},
                {"mask": {"size": [5], "counts": "52"}},
                "a mask of 'windows' has size [5], expected height and width",
            ),
            ({}, {"mask": {"size": None, "counts": "52"}}, "damaged parts ("),
        ],
    )
    def test_parts_that_are_nowhere(
        self,
        make_data: Callable[..., Path],
        rows_of: Callable,
        changes: dict[str, Any],
        instance: dict[str, Any],
        reason: str,
    ) -> None:
        rows = rows_of(range(2))
        rows[0] |= changes
        rows[0]["parts"][0] |= instance
        with pytest.raises(DataError) as refusal:
            open_data(str(make_data(train=rows))).split("train").parts(0)
        assert "image '000/0' has damaged parts (" in str(refusal.value)
        assert reason in str(refusal.value)
        assert "http" not in str(refusal.value)

    def test_damaged_masks(self, make_data: Callable[..., Path], rows_of: Callable) -> None:
        rows = rows_of(range(2))
        rows[0]["parts"][0]["mask"]["counts"] = "zz"
        with pytest.raises(DataError, match="image '000/0' has damaged parts"):
            open_data(str(make_data(train=rows))).split("train").parts(0)

    def test_a_grid_of_other_parts(self, make_data: Callable[..., Path], rows_of: Callable, tmp_path: Path) -> None:
        rows = [{**row, "part_grid": np.ones((5, 4, 4), dtype=bool).tolist()} for row in rows_of(range(2))]
        with pytest.raises(
            DataError, match=r"damaged parts \(a patch grid of shape \(5, 4, 4\), expected \(6, rows, cols\)"
        ):
            open_data(str(_grids_alone(tmp_path, rows))).split("train").parts(0)

    def test_an_identity_that_is_not_text(self, make_data: Callable[..., Path], rows_of: Callable) -> None:
        rows = rows_of(range(2))
        rows[4]["vehicle_id"] = None
        with pytest.raises(DataError, match="row 4 has vehicle_id None; expected text"):
            open_data(str(make_data(train=rows))).split("train").vehicle_ids  # noqa: B018

    def test_captions_that_are_no_lists(self, make_data: Callable[..., Path], rows_of: Callable) -> None:
        folder = make_data(train=rows_of(range(3)))
        (shard,) = folder.glob("data/train-*.parquet")
        table = parquet.read_table(shard)
        single = pyarrow.array(["a red car"] * len(table))
        parquet.write_table(table.set_column(table.column_names.index("captions"), "captions", single), shard)
        with pytest.raises(DataError, match="captions holds single values; expected a list of texts for each image"):
            open_data(str(folder)).split("train").captions  # noqa: B018


def test_blank_captions_are_left_out(make_data: Callable[..., Path], rows_of: Callable) -> None:
    rows = rows_of(range(2))
    rows[0]["captions"] = ["", "a red car", "  "]
    captions = open_data(str(make_data(train=rows))).split("train").captions
    assert captions[0] == ["a red car"]
    assert Counter(map(len, captions)) == {1: 1, 2: 5}


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ("{", "pfcvr.json: not a manifest of pfcvr-data export; export the data set again"),
        ('{"grid": [4, 4]}', "pfcvr.json: not a manifest of pfcvr-data export; export the data set again"),
        ('{"grid": {"coverage": null}}', "pfcvr.json: grid.coverage is None, expected a share above 0"),
        ('{"grid": {"coverage": "abc"}}', "pfcvr.json: grid.coverage is 'abc', expected a share above 0"),
        ('{"grid": {"coverage": 7}}', "pfcvr.json: grid.coverage is 7, expected a share above 0 and not above 1"),
        ('{"grid": {"coverage": NaN}}', "pfcvr.json: grid.coverage is nan, expected a share above 0"),
    ],
)
def test_a_manifest_that_no_export_wrote_is_named(
    make_data: Callable[..., Path], rows_of: Callable, manifest: str, sentence: str
) -> None:
    path = make_data(train=rows_of(range(2)))
    (path / "pfcvr.json").write_text(manifest)
    with pytest.raises(DataError) as refusal:
        open_data(str(path))
    assert sentence in str(refusal.value)
