"""A model folder serves the Hub: found there by name and revision, with a card, and refusals say what to do."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pfcvr.config import ModelConfig
from pfcvr.errors import CheckpointError, HubError
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.tokenizer import caption_tokenizer

MakeModel = Callable[..., PfcvrModel]


@pytest.fixture
def unreachable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Hub answers; the cache of downloads, which is returned, is empty."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("pfcvr.hub.refusals.time.sleep", lambda seconds: None)
    return cache


def test_saved_weights_may_be_read_by_whom_the_umask_lets_read(tiny_model: MakeModel, tmp_path: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            tiny_model().save_pretrained(tmp_path / f"{mode:o}")
        finally:
            os.umask(before)
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / f"{mode:o}").iterdir()}
        assert modes == dict.fromkeys(modes, mode)


def test_a_model_downloaded_before_is_found_by_its_name_and_revision(
    tiny_model: MakeModel, unreachable_hub: Path
) -> None:
    repository = unreachable_hub / "models--lab--cars"
    (repository / "refs").mkdir(parents=True)
    for number, revision in enumerate(("main", "v1")):
        commit = str(number) * 40
        (repository / "refs" / revision).write_text(commit)
        tiny_model(identities=5 + number).save_pretrained(repository / "snapshots" / commit)
    assert PfcvrModel.from_pretrained("lab/cars").identities == 5
    assert PfcvrModel.from_pretrained("lab/cars", revision="v1").identities == 6


def test_downloads_can_be_kept_elsewhere_and_taken_without_asking_the_hub(
    tiny_model: MakeModel, unreachable_hub: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "elsewhere" / "models--lab--cars"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    tiny_model(identities=7).save_pretrained(repository / "snapshots" / ("0" * 40))
    where = {"cache_dir": tmp_path / "elsewhere", "local_files_only": True}
    assert PfcvrModel.from_pretrained("lab/cars", **where).identities == 7
    with pytest.raises(HubError, match="lab/cars: neither a folder here nor a model that the Hub gives"):
        PfcvrModel.from_pretrained("lab/cars", local_files_only=True)


def test_a_backbone_that_is_named_as_on_the_hub_brings_its_own_vocabulary(
    tiny_model: MakeModel, unreachable_hub: Path
) -> None:
    own = tiny_model().tokenizer
    repository = unreachable_hub / "models--lab--clip"
    snapshot = repository / "snapshots" / ("0" * 40)
    for folder in (repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(snapshot.name)
    own.save(snapshot)
    by_name = caption_tokenizer(ModelConfig(backbone="lab/clip", text_length=24), [])
    assert by_name.vocabulary_size == own.vocabulary_size
    assert torch.equal(by_name.encode(["a white SUV"]).ids, own.encode(["a white SUV"]).ids)
    with pytest.raises(HubError, match=r"lab/other: no such folder here, and on the Hub: no connection to http://127"):
        caption_tokenizer(ModelConfig(backbone="lab/other"), [])


def test_a_folder_is_given_as_text_or_path_and_wins_over_the_hub(
    tiny_model: MakeModel, unreachable_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    model.save_pretrained(str(tmp_path / "lab" / "cars"))
    monkeypatch.chdir(tmp_path)
    loaded = PfcvrModel.from_pretrained("lab/cars")
    assert torch.equal(loaded.towers.image_positions, model.towers.image_positions)


def test_a_hub_that_is_not_reached_is_said_without_the_token(tiny_model: MakeModel, unreachable_hub: Path) -> None:
    with pytest.raises(HubError) as refusal:
        PfcvrModel.from_pretrained("lab/cars", token="hf_secret")
    assert str(refusal.value).startswith("lab/cars: neither a folder here nor a model that the Hub gives (")
    with pytest.raises(HubError) as failure:
        tiny_model().push_to_hub("lab/cars", private=True, token="hf_secret")
    assert str(failure.value).startswith("lab/cars: no connection to http://127.0.0.1:9 (")
    assert str(failure.value).endswith("check the network and run the same command again, it continues")
    assert "hf_secret" not in str(refusal.value) + str(failure.value)


def test_what_is_neither_a_folder_nor_a_hub_name_is_never_asked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no config.json; expected a folder written by PFCVR training"):
        PfcvrModel.from_pretrained(tmp_path / "nowhere")


def test_a_run_or_a_file_in_place_of_a_model_folder_is_told_what_was_expected(
    tiny_model: MakeModel, tmp_path: Path
) -> None:
    model = tmp_path / "run" / "model"
    tiny_model().save_pretrained(model)
    with pytest.raises(CheckpointError) as of_run:
        PfcvrModel.from_pretrained(tmp_path / "run")
    assert str(of_run.value).endswith(
        f"/run: no config.json; expected a folder written by PFCVR training, as {model} is"
    )
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no config\.json; expected a folder written by"):
        PfcvrModel.from_pretrained(model / "model.safetensors")


def test_the_card_names_the_sizes_and_one_written_by_hand_stays(tiny_model: MakeModel, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    model = tiny_model()
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "pfcvr"
    assert "vehicle-re-identification" in card.data.tags
    assert "stretched to 32 x 48 px and read in patches of\n8 px" in card.text
    assert "clip" not in card.data.tags  # from random weights
    (tmp_path / "README.md").write_text("ours")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "ours"


def test_safetensors_of_a_model_say_that_they_are_pytorchs(tiny_model: MakeModel, tmp_path: Path) -> None:
    from safetensors import safe_open

    tiny_model().save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
