"""Weights that are not what a backend needs: one sentence each, with the key or the file that is to blame."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pfcvr.config import PartsConfig
from pfcvr.errors import BackendError, CheckpointError, UsageError
from pfcvr.pipeline.part_finder import PartFinder
from pfcvr.pipeline.segmenters.sam_checkpoint import build_sam, load_sam, sam_sizes
from pfcvr.pipeline.weights import find_weights, weights_sha256

Make = Callable[..., PartsConfig]
TRANSFORMERS = [("grounding-dino", "none"), ("import", "sam"), ("none", "sam3")]


@pytest.fixture
def finder(small) -> Callable[[PartsConfig], None]:
    """Makes the backends and has them look at a picture."""
    small.add_images({"1": 1})

    def look(settings: PartsConfig) -> None:
        PartFinder(small.workspace, settings).work_many(small.images)

    return look


def with_weights(config: Make, detector: str, segmenter: str, folder: Path) -> PartsConfig:
    key = "detector_model" if segmenter == "none" else "segmenter_model"
    made = config(detector, segmenter, **{key: str(folder)})
    if detector != "import":
        return made
    path = folder.parent / "boxes.coco.json"
    image = {"id": 1, "file_name": "1/000001.png"}
    wheel = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    path.write_text(json.dumps({"images": [image], "annotations": [wheel], "categories": [{"id": 1, "name": "wheel"}]}))
    return made.model_copy(update={"annotations": path})


def copied(config: Make, detector: str, segmenter: str, folder: Path) -> Path:
    """The tiny weights of a backend, to be harmed."""
    made = config(detector, segmenter)
    source = made.detector_model if segmenter == "none" else made.segmenter_model
    return Path(shutil.copytree(source, folder / "weights"))


@pytest.mark.parametrize(("detector", "segmenter"), TRANSFORMERS)
def test_weights_of_another_kind_of_model_are_refused(detector, segmenter, config, finder, tmp_path) -> None:
    other = tmp_path / "clip"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(
        CheckpointError, match=r"clip: holds a model of type 'clip', expected one of type '.*'; give the weights"
    ):
        finder(with_weights(config, detector, segmenter, other))


@pytest.mark.parametrize(("detector", "segmenter"), TRANSFORMERS)
@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json there; give the folder of a Transformers"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable as JSON; get the folder anew"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded .*; get the folder anew"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"rubbish"), "cannot be loaded .*; get the folder"),
        (lambda folder: (folder / "processor_config.json").unlink(), "no processor for .* get the whole folder"),
    ],
)
def test_a_damaged_folder_of_weights_is_one_sentence(
    detector, segmenter, harm, sentence, config, finder, tmp_path
) -> None:
    folder = copied(config, detector, segmenter, tmp_path)
    harm(folder)
    with pytest.raises(CheckpointError, match=sentence):
        finder(with_weights(config, detector, segmenter, folder))


@pytest.mark.parametrize(("detector", "segmenter"), [("grounding-dino", "none"), ("none", "sam3")])
def test_a_folder_without_its_tokenizer_is_refused_before_any_picture_is_looked_at(
    detector, segmenter, config, small, tmp_path
) -> None:
    folder = copied(config, detector, segmenter, tmp_path)
    for path in [*folder.glob("tokenizer*"), *folder.glob("vocab.txt")]:
        path.unlink()
    small.add_images({"1": 1})
    with pytest.raises(CheckpointError, match=r"weights: no vocabulary of a tokenizer there.*; get the whole folder"):
        PartFinder(small.workspace, with_weights(config, detector, segmenter, folder))


def test_a_vocabulary_in_the_older_form_is_enough(config, finder, tmp_path) -> None:
    folder = copied(config, "grounding-dino", "none", tmp_path)
    (folder / "tokenizer.json").unlink()
    finder(with_weights(config, "grounding-dino", "none", folder))


@pytest.mark.parametrize(("detector", "segmenter"), TRANSFORMERS)
def test_a_missing_weight_is_named(detector, segmenter, config, finder, tmp_path) -> None:
    folder = copied(config, detector, segmenter, tmp_path)
    weights = load_file(folder / "model.safetensors")
    lost = sorted(name for name in weights if "decoder" in name and name.endswith("weight"))[0]
    save_file({name: weights[name] for name in weights if name != lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"1 weight of .* missing, first '.*{lost}'; get the folder anew"):
        finder(with_weights(config, detector, segmenter, folder))


def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    for name in ("sam-vit-huge", str(tmp_path / "nowhere"), str(tmp_path / "file"), "./own/folder"):
        with pytest.raises(CheckpointError, match="no folder with a Transformers model; give one, or a model's name"):
            find_weights(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="nobody/nothing: no such folder here, and the Hub does not give a model"):
        find_weights("nobody/nothing")


def test_the_hash_of_weights_changes_with_any_file_a_model_is_loaded_from(sam: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sam, tmp_path / "copy"))
    before = weights_sha256(folder)
    assert before == weights_sha256(sam)
    (folder / "notes.md").write_text("read by nobody")
    assert weights_sha256(folder) == before
    (folder / "processor_config.json").write_text("{}")
    assert weights_sha256(folder) != before


@pytest.mark.parametrize(("package", "detector", "segmenter", "extra"), [
    ("transformers", "grounding-dino", "none", "parts"),
    ("torch", "none", "sam3", "parts"),
    ("segment_anything", "grounding-dino", "segment-anything", "segment-anything"),
])  # fmt: skip
def test_a_package_that_is_not_installed_is_named_with_the_pip_line(
    package, detector, segmenter, extra, config, finder, monkeypatch
) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    backend = "segmenter" if segmenter != "none" else "detector"
    with pytest.raises(
        BackendError,
        match=rf"{backend} '.*' needs the package '{package}'; in the clone run: pip install -e '\.\[{extra}\]'",
    ):
        finder(config(detector, segmenter))


def test_a_gpu_that_is_not_there_is_said(config, finder, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="no CUDA device here; use --device cpu"):
        finder(config("none", "sam3", device="cuda"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"detector": "none", "segmenter": "none"}, "without a detector nobody finds the parts; choose --segmenter"),
        ({"detector": "none", "segmenter": "sam"}, "without a detector nobody finds the parts"),
        ({"detector": "grounding-dino", "segmenter": "sam3"}, "finds the parts by itself; use it with --detector none"),
        ({"detector": "none", "annotations": "a.json"}, "--annotations is not read by detector 'none'"),
        ({"detector": "none", "detector_model": "x"}, "--detector-model is not read by detector 'none'"),
        ({"segmenter_model": "x"}, "--segmenter-model is not read by detector 'import' with segmenter 'none'"),
        ({"phrases": "x.toml"}, "--phrases is not read by detector 'import'"),
        ({"threshold": 0.5}, "--threshold is not read by detector 'import'"),
        ({"device": "cpu"}, "--device is not read by detector 'import' with segmenter 'none'"),
        ({"precision": "bfloat16"}, "--precision is not read by detector 'import' with segmenter 'none'"),
        ({"detector": "groundingdino", "segmenter": "none", "precision": "float32"}, "--precision is not read by"),
        ({"detector": "grounding-dino", "segmenter": "segment-anything"}, "has no weights by itself; give its .pth"),
    ],
)  # fmt: skip
def test_backends_and_options_that_do_not_go_together_are_refused(
    values: dict[str, Any], sentence: str, finder, grounding_dino
) -> None:
    if values.get("segmenter") == "segment-anything":
        values = values | {"detector_model": str(grounding_dino)}
    with pytest.raises(UsageError) as caught:
        finder(PartsConfig.model_validate(values))
    assert sentence in str(caught.value)


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("this must never be printed",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"visual.proj": torch.ones(2)}, r"\('image_encoder.pos_embed' is missing, it holds 'visual.proj', ...\)"),
        ({}, "it holds nothing"),
        ({"model": {"a": torch.ones(1)}}, "holds no table of tensors"),
        ([1, 2], "holds no table of tensors"),
        (Harmful(), "not a file of tensors"),
    ],
)  # fmt: skip
def test_a_pth_file_of_the_wrong_kind_is_refused_with_the_key(tmp_path, content, sentence, capsys) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=sentence):
        load_sam(path)
    assert "never" not in capsys.readouterr().out


def test_a_pth_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere.pth: cannot be read \(No such file or directory\)"):
        load_sam(tmp_path / "nowhere.pth")
    for content in (b"", b"rubbish", pickle.dumps(Harmful())):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match="bad.pth: not a file of tensors"):
            load_sam(tmp_path / "bad.pth")


@pytest.mark.parametrize(
    "lost", ["mask_decoder.iou_token.weight", "prompt_encoder.no_mask_embed.weight", "image_encoder.neck.0.weight"]
)
def test_a_tensor_that_a_pth_file_lacks_is_named(tmp_path: Path, segment_anything: Path, lost: str) -> None:
    weights = torch.load(segment_anything, weights_only=True)
    del weights[lost]
    torch.save(weights, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=f"do not make a Segment Anything network .*{lost}"):
        load_sam(tmp_path / "less.pth")


@pytest.mark.parametrize("kind", ["vit_b", "vit_l", "vit_h"])
def test_the_three_published_sizes_are_recognised_by_their_tensors(kind: str) -> None:
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        published = sam_model_registry[kind]()
        built = build_sam(sam_sizes(published.state_dict()))
    expected = {name: tensor.shape for name, tensor in published.state_dict().items()}
    assert {name: tensor.shape for name, tensor in built.state_dict().items()} == expected
    windows = [(block.window_size, block.attn.num_heads) for block in published.image_encoder.blocks]
    assert [(block.window_size, block.attn.num_heads) for block in built.image_encoder.blocks] == windows
