"""The whole model: which losses it gives, that all of it learns, and that it is the same after saving and loading."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from pfcvr.config import LossWeights, ModelConfig, OptimizerConfig
from pfcvr.errors import CheckpointError
from pfcvr.model.batch import IGNORED_LABEL, Batch
from pfcvr.model.pfcvr import PfcvrModel, build_pfcvr
from pfcvr.model.rates import parameter_groups
from pfcvr.model.reconstruction import choose_removed_patches, patch_pixels
from pfcvr.model.tokenizer import caption_tokenizer

MakeModel = Callable[..., PfcvrModel]
MakeBatch = Callable[..., Batch]
BRANCHES = {
    "sdm": None,
    "itc": None,
    "id": "classifier",
    "part_itc": "part_queries",
    "part_across": "part_queries",
    "mlm": "word_decoder",
    "part_mlm": "word_decoder",
    "mim": "patch_decoder",
}


def test_every_parameter_learns_when_all_losses_are_on(tiny_model: MakeModel, tiny_batch: MakeBatch) -> None:
    model = tiny_model()
    losses = model(tiny_batch(model))
    assert set(losses) == set(BRANCHES)
    model.total(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("name", BRANCHES)
def test_a_loss_alone_is_computed_alone_and_decreases(name: str, tiny_model: MakeModel, tiny_batch: MakeBatch) -> None:
    weights = {other: float(other == name) for other in BRANCHES}
    model = tiny_model(losses=weights, temperature=0.07, part_temperature=0.07)
    built = {head for head in set(BRANCHES.values()) - {None} if getattr(model.heads, str(head)) is not None}
    assert built == {BRANCHES[name]} - {None}
    batch = tiny_batch(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    seen = []
    for _ in range(25):
        losses = model(batch)
        assert list(losses) == [name]
        optimizer.zero_grad()
        model.total(losses).backward()
        optimizer.step()
        seen.append(float(losses[name].detach()))
    assert sum(seen[-5:]) < 0.95 * sum(seen[:5])


def test_the_total_is_the_weighted_sum(tiny_model: MakeModel) -> None:
    model = tiny_model(losses={"sdm": 1.0, "id": 0.5, "part_itc": 0.2})
    losses = {"sdm": torch.tensor(3.0), "id": torch.tensor(2.0), "part_itc": torch.tensor(10.0)}
    assert float(model.total(losses)) == pytest.approx(6.0)
    assert float(model.total(losses, LossWeights(sdm=0, id=1, part_itc=0))) == pytest.approx(2.0)


def test_a_small_batch_is_learned_by_heart(tiny_model: MakeModel, tiny_batch: MakeBatch) -> None:
    model = tiny_model(losses={"sdm": 1, "itc": 1, "id": 0.5, "part_itc": 0.1, "mlm": 0.1, "mim": 0.1})
    batch = tiny_batch(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model.total(model(batch)).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        images, texts = F.normalize(model.encode_images(batch.images)), F.normalize(model.encode_texts(batch.token_ids))
    assert (texts @ images.T).argmax(dim=1).tolist() == list(range(8))


def test_retrieval_features_are_the_global_tokens_of_the_towers(tiny_model: MakeModel, tiny_batch: MakeBatch) -> None:
    model = tiny_model()
    batch = tiny_batch(model)
    images, texts = model.encode_images(batch.images), model.encode_texts(batch.token_ids)
    assert torch.equal(images, model.towers.image_tokens(batch.images)[:, 0])
    ends = [row.index(model.tokenizer.end_id) for row in batch.token_ids.tolist()]
    assert torch.equal(texts, model.towers.text_tokens(batch.token_ids)[range(8), ends])


def test_losses_come_from_the_pieces_the_paper_names(tiny_model: MakeModel, tiny_batch: MakeBatch) -> None:
    model = tiny_model()
    batch = tiny_batch(model)
    kept, removed = choose_removed_patches(batch.part_grids, 6, batch.patch_draws)
    losses, towers, heads = model(batch), model.towers, model.heads
    image, text = towers.image_tokens(batch.images), towers.text_tokens(batch.token_ids)
    padding = towers.padding(batch.token_ids)
    # Image branch: the encoder never sees removed patches, the target is their normalised pixels.
    assert heads.patch_decoder is not None
    restored = heads.patch_decoder(towers.image_tokens(batch.images, kept), kept, removed, text, padding)
    target = torch.stack([row[gone] for row, gone in zip(patch_pixels(batch.images, 8), removed, strict=True)])
    torch.testing.assert_close(losses["mim"], (restored - target).square().mean())
    # Text branch: masked caption as query, the unmasked image as context, loss on the masked words only.
    assert heads.word_decoder is not None
    masked = towers.text_tokens(batch.masked_token_ids)
    logits = heads.word_decoder(masked, padding, image, torch.arange(batch.token_ids.numel()))
    expected = F.cross_entropy(logits, batch.masked_labels.flatten(), ignore_index=IGNORED_LABEL)
    torch.testing.assert_close(losses["mlm"], expected)
    # Matching and classification read the original caption.
    assert heads.classifier is not None
    classify, ends = heads.classifier, (batch.token_ids == model.tokenizer.end_id).int().argmax(dim=1)
    scores = (classify(image[:, 0]), classify(text[range(8), ends]))
    expected = sum(F.cross_entropy(score, batch.identities) for score in scores) / 2
    torch.testing.assert_close(losses["id"], expected)


def reorder(batch: Batch, order: Tensor) -> Batch:
    derived = ("masked_positions", "pairs_on_processes")
    names = (field.name for field in dataclasses.fields(Batch) if field.name not in derived)
    return Batch(**{name: getattr(batch, name)[order] for name in names})


def test_the_order_of_the_batch_does_not_matter(tiny_model: MakeModel, tiny_batch: MakeBatch) -> None:
    model = tiny_model()
    batch = tiny_batch(model, identities=[0, 1, 0, 2, 3, 4, 5, 5])
    with torch.no_grad():
        losses, turned = model(batch), model(reorder(batch, torch.tensor([3, 7, 0, 1, 6, 2, 5, 4])))
    for name, loss in losses.items():
        torch.testing.assert_close(turned[name], loss, rtol=1e-4, atol=1e-5)


def test_padding_changes_no_loss(tiny_model: MakeModel, tiny_batch: MakeBatch) -> None:
    model = tiny_model()
    batch = tiny_batch(model)
    padding = model.towers.padding(batch.token_ids)
    assert padding.any()
    other = dataclasses.replace(
        batch,
        token_ids=batch.token_ids.masked_fill(padding, 9),
        masked_token_ids=batch.masked_token_ids.masked_fill(padding, 9),
    )
    with torch.no_grad():
        torch.manual_seed(0)
        losses = model(batch)
        torch.manual_seed(0)
        for name, loss in model(other).items():
            torch.testing.assert_close(loss, losses[name], msg=name)


@pytest.mark.parametrize("case", ["no parts", "one pair", "no masked word", "one identity", "whole image a part"])
def test_odd_batches_give_finite_losses_and_gradients(case: str, tiny_model: MakeModel, tiny_batch: MakeBatch) -> None:
    model = tiny_model()
    batch = tiny_batch(model, size=1 if case == "one pair" else 4, identities=[0] if case == "one pair" else [2] * 4)
    if case == "no parts":
        batch = dataclasses.replace(batch, part_grids=torch.zeros_like(batch.part_grids))
    if case == "whole image a part":
        batch = dataclasses.replace(batch, part_grids=torch.ones_like(batch.part_grids))
    if case == "no masked word":
        labels = torch.full_like(batch.masked_labels, IGNORED_LABEL)
        batch = dataclasses.replace(batch, masked_labels=labels, masked_positions=torch.zeros(0, dtype=torch.long))
    losses = model(batch)
    model.total(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if case == "no parts":
        assert not losses["part_itc"].any()
        assert not losses["part_across"].any()
        assert not losses["part_mlm"].any()
    if case == "no masked word":
        assert not losses["mlm"].any()


def test_masked_words_are_found_once_and_travel_with_the_batch(tiny_model: MakeModel, tiny_batch: MakeBatch) -> None:
    batch = tiny_batch(tiny_model())
    flat = batch.masked_labels.flatten()
    assert batch.masked_positions.tolist() == [place for place, label in enumerate(flat.tolist()) if label >= 0]
    moved = batch.to("meta")
    assert moved.images.device.type == "meta"
    assert moved.masked_positions.shape == batch.masked_positions.shape


def test_parameter_groups_name_every_parameter_once_with_its_rate_and_decay(tiny_model: MakeModel) -> None:
    model = tiny_model()
    groups = {group["name"]: group for group in parameter_groups(model, OptimizerConfig())}
    members = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters())
    rates = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert rates == {
        "towers.matrices": (1e-5, 4e-5),
        "towers.vectors": (1e-5, 0),
        "heads.matrices": (pytest.approx(5e-5), 4e-5),
        "heads.vectors": (pytest.approx(5e-5), 0),
    }
    vectors = {id(p) for name in ("towers.vectors", "heads.vectors") for p in groups[name]["params"]}
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm | torch.nn.Linear):
            assert module.bias is None or id(module.bias) in vectors
        if isinstance(module, torch.nn.Linear):
            assert id(module.weight) not in vectors
    without_heads = tiny_model(losses={"sdm": 1, **{name: 0 for name in ("id", "part_itc", "mlm", "mim")}})
    assert {group["name"] for group in parameter_groups(without_heads, OptimizerConfig())} == {
        "towers.matrices",
        "towers.vectors",
    }
    torch.optim.Adam(parameter_groups(model, OptimizerConfig()), fused=True)


def test_a_saved_model_comes_back_bit_for_bit(tiny_model: MakeModel, tiny_batch: MakeBatch, tmp_path: Path) -> None:
    model = tiny_model(identities=5).eval()
    model.save_pretrained(tmp_path / "model")
    torch.manual_seed(99)
    loaded = PfcvrModel.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    assert loaded.identities == 5
    assert not loaded.training
    state = loaded.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    batch = tiny_batch(model, identities=[0, 1, 2, 3, 4, 0, 1, 2])
    with torch.no_grad():
        torch.manual_seed(0)
        losses = model(batch)
        torch.manual_seed(0)
        for name, loss in loaded(batch).items():
            assert torch.equal(loss, losses[name])
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_saved_preprocessing_is_what_transformers_image_processor_reads(tiny_model: MakeModel, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image
    from transformers import AutoImageProcessor

    tiny_model().save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    result = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    np.testing.assert_allclose(result, ((pixels / 255 - mean) / std).transpose(2, 0, 1), atol=1e-5)


def test_a_backbone_brings_its_sizes_weights_and_tokenizer(
    tiny_config: Callable[..., ModelConfig], tiny_batch: MakeBatch, tmp_path: Path
) -> None:
    from transformers import CLIPConfig, CLIPModel

    tokenizer = caption_tokenizer(tiny_config(), ["white car with roof rails"] * 3)
    text = {"vocab_size": tokenizer.vocabulary_size, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = {"hidden_size": 16, "patch_size": 16, "image_size": 32}
    clip = CLIPModel(
        CLIPConfig(
            vision_config={**layers, **vision}, text_config={**layers, **text, "hidden_size": 24}, projection_dim=20
        )
    )
    clip.save_pretrained(tmp_path / "clip")
    tokenizer.save(tmp_path / "clip")
    config = tiny_config(backbone=str(tmp_path / "clip"), vocabulary="clip")
    model = build_pfcvr(config, caption_tokenizer(config, []), 8)
    assert (model.config.towers.vision_width, model.config.towers.embedding_dim) == (16, 20)
    assert model.config.patch_grid == (2, 3)
    assert torch.equal(model.towers.image_projection.weight, clip.visual_projection.weight)
    assert set(model(tiny_batch(model))) == set(BRANCHES)
    model.save_pretrained(tmp_path / "model")
    loaded = PfcvrModel.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    assert torch.equal(loaded.towers.image_positions, model.towers.image_positions)
    with pytest.raises(CheckpointError) as refusal:
        build_pfcvr(tiny_config(backbone=str(tmp_path / "clip"), heads=8), tokenizer, 8)
    assert "embedding_dim (20) must be divisible by heads (8); change the setting" in str(refusal.value)
    with pytest.raises(CheckpointError, match=r"patch_mask_ratio \(0.1\) removes no patch of \(2, 3\); change the"):
        build_pfcvr(tiny_config(backbone=str(tmp_path / "clip"), patch_mask_ratio=0.1), tokenizer, 8)


KEY = "towers.image_projection.weight"


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    description = json.loads((folder / "config.json").read_text())
    change(description)
    (folder / "config.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda f: change_weights(f, lambda w: w.update({KEY: torch.zeros(3, 4)})),
            f"'{KEY}' has shape (3, 4), expected (32, 48); config.json is of another model",
        ),
        (lambda f: change_weights(f, lambda w: w.pop(KEY)), f"'{KEY}' of shape (32, 48) is missing; copy it again"),
        (
            lambda f: change_weights(f, lambda w: w.update({"zoo": torch.zeros(1)})),
            "'zoo' belongs to no part of this model; config.json is of another one",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"torn"), "not a whole safetensors file"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors; copy it again"),
        (
            lambda f: (f / "model.safetensors").rename(f / "model.pt"),
            "no model.safetensors; model.pt is a pickle, which may run code when read: convert it to",
        ),
        (lambda f: (f / "config.json").unlink(), "no config.json; expected a folder written by PFCVR training"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "not the settings of a PFCVR model"),
        (
            lambda f: change_config(f, lambda d: d.update(format_version=7)),
            "format version 7, this program reads 1; use a pfcvr that writes that",
        ),
        (lambda f: change_config(f, lambda d: d["model"].update(zoo=1)), "unknown key 'zoo'; known here:"),
        (lambda f: change_config(f, lambda d: d.pop("identities")), "'identities'; copy the file again"),
        (
            lambda f: change_config(f, lambda d: d.update(identities=-3)),
            "config.json: identities is -3, expected a number from 1 on; copy the file again",
        ),
        (lambda f: change_config(f, lambda d: d.update(identities="many")), "identities is 'many', expected a number"),
        (lambda f: change_config(f, lambda d: d.update(model=[1])), "config.json: input should be a valid dictionary"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
    ],
)
def test_a_spoiled_model_folder_is_refused_with_a_sentence(
    spoil: Callable[[Path], object], sentence: str, tiny_model: MakeModel, tmp_path: Path
) -> None:
    tiny_model().save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        PfcvrModel.from_pretrained(tmp_path)
    assert sentence in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)


def test_bfloat16_autocast_gives_nearly_the_same_losses_and_all_gradients(
    tiny_model: MakeModel, tiny_batch: MakeBatch
) -> None:
    model = tiny_model(temperature=0.07, part_temperature=0.07)
    batch = tiny_batch(model)
    torch.manual_seed(0)
    exact = model(batch)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
        total = model.total(losses)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert float(loss.detach()) == pytest.approx(float(exact[name].detach()), rel=0.05, abs=0.02), name
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
