"""What the loopback Hub cannot do to a client: transfers by Xet that fail, and a machine that stays offline."""

from pathlib import Path

import pytest

from pfcvr.errors import HubError
from pfcvr.hub import HubRepository, Publication


@pytest.mark.parametrize("error", [RuntimeError, PermissionError])
def test_a_transfer_that_fails_below_http_is_one_sentence_without_the_token(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = HubRepository("lab/cars", "dataset")

    def fail(**_: object) -> None:
        raise error("bad session of hf_secretsecret\nmore")

    monkeypatch.setattr(hub._api, "upload_folder", fail)
    with pytest.raises(HubError) as told:
        hub.upload(Publication(tmp_path, "lab/x", "model"), "0" * 40, ())
    assert str(told.value) == (
        "lab/cars: the transfer broke off (bad session of ***); run the same command again, it continues"
    )


def test_a_file_that_cannot_be_read_here_is_not_blamed_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = HubRepository("lab/cars", "dataset")
    monkeypatch.setattr(hub._api, "upload_folder", lambda **_: (tmp_path / "gone").read_bytes())
    with pytest.raises(FileNotFoundError):
        hub.upload(Publication(tmp_path, "lab/x", "model"), "0" * 40, ())


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
