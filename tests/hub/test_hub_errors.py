"""What the loopback Hub cannot do to a client: transfers by Xet that fail, and a machine that stays offline."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pfcvr.errors import CheckpointError, DataError, HubError
from pfcvr.hub import HubRepository
from pfcvr.model.clip import pretrained_towers
from pfcvr.model.data import open_data
from pfcvr.model.hub_data import load_hub_tables
from pfcvr.model.hub_run import open_run
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.pipeline.weights import find_weights


@pytest.fixture
def slept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of whoever asks a Hub that is not reached."""
    waits: list[float] = []
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", waits.append)
    return waits


def test_a_mistyped_folder_of_a_data_set_costs_no_wait_for_a_hub_that_is_not_reached(slept: list[float]) -> None:
    with pytest.raises(HubError, match="lab/typo: no such folder here, and on the Hub: no connection to http://127"):
        open_data("lab/typo")
    assert slept == []


@pytest.mark.parametrize("name", ["./typo", "../typo", "typo", "runs/of/may", "/no/such"])
def test_what_can_only_be_a_path_is_not_asked_of_the_hub(name: str, slept: list[float]) -> None:
    with pytest.raises(DataError, match=f"{name}: no such folder; give a folder written by pfcvr-data export"):
        open_data(name)
    with pytest.raises(CheckpointError, match=f"{name}: no CLIP checkpoint there; give a folder, a file or a Hub name"):
        pretrained_towers(name, (32, 32), 8, 100, 99)
    with pytest.raises(CheckpointError, match=f"{name}: no folder with a Transformers model; give one"):
        find_weights(name)
    assert slept == []


@pytest.mark.parametrize("error", [RuntimeError, PermissionError])
def test_a_transfer_that_fails_below_http_is_one_sentence_without_the_token(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = HubRepository("lab/cars", "dataset")

    def fail(**_: object) -> None:
        raise error("bad session of hf_secretsecret\nmore")

    monkeypatch.setattr(hub._api, "upload_folder", fail)
    with pytest.raises(HubError) as told:
        hub.upload(tmp_path, "a message", "0" * 40)
    assert str(told.value) == (
        "lab/cars: the transfer broke off (bad session of ***); run the same command again, it continues"
    )


def test_a_file_that_cannot_be_read_here_is_not_blamed_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = HubRepository("lab/cars", "dataset")
    monkeypatch.setattr(hub._api, "upload_folder", lambda **_: (tmp_path / "gone").read_bytes())
    with pytest.raises(FileNotFoundError):
        hub.upload(tmp_path, "a message", "0" * 40)


def test_a_machine_that_is_offline_by_choice_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    try:
        with pytest.raises(HubError, match="the Hub is switched off on this machine; unset HF_HUB_OFFLINE and run"):
            HubRepository("lab/cars", "model").standing()
    finally:
        close_session()


USERS: dict[str, Callable[[str], object]] = {
    "import and push": lambda name: HubRepository(name, "dataset").standing(),
    "data of train": load_hub_tables,
    "run of eval": lambda name: open_run(Path(name)),
    "model of the library": PfcvrModel.from_pretrained,
    "weights of caption and parts": find_weights,
}


@pytest.mark.parametrize("token", ["hf_secr\u00e4t", "hf_sec ret", "hf_sec\x1bret"])
@pytest.mark.parametrize("use", USERS.values(), ids=USERS)
def test_a_token_that_no_header_can_carry_is_one_sentence_that_does_not_show_it(
    use: Callable[[str], object], token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError) as told:
        use("lab/cars")
    assert str(told.value) == (
        "lab/cars: the access token holds characters that no token of the Hub has; copy it anew from its page, and run "
        "hf auth login or set HF_TOKEN"
    )


def test_a_token_that_is_given_counts_and_not_the_one_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secr\u00e4t")
    assert HubRepository("lab/cars", "model", "hf_plain").name == HubRepository("lab/cars", "model", False).name
    with pytest.raises(HubError, match="the access token holds characters"):
        HubRepository("lab/cars", "model", "hf_\u00e4")
