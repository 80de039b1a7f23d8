"""``PfcvrModel.push_to_hub``, called from Python, against the same Hub and by the same way as ``pfcvr push``."""

import pytest
import torch
from hub.hub_repositories import LOOKER_TOKEN, OWNER_TOKEN
from hub.loopback_hub import Fault, LoopbackHub

from pfcvr.config import ModelConfig
from pfcvr.errors import HubError
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.tokenizer import caption_tokenizer

# The Hub's client uploads by a way that the HTTP library below it calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TOWERS = {
    "patch_size": 8, "embedding_dim": 16, "vision_width": 16, "vision_mlp": 16, "vision_layers": 1, "vision_heads": 2,
    "text_width": 16, "text_mlp": 16, "text_layers": 1, "text_heads": 2,
}  # fmt: skip


@pytest.fixture
def model() -> PfcvrModel:
    captions = ["A white van.", "A red sedan with dark windows."]
    config = ModelConfig.model_validate(
        {"towers": TOWERS, "image_size": (16, 16), "text_length": 16, "vocabulary": "captions", "heads": 2}
        | {"vocabulary_size": 600, "patch_decoder_head_width": 8, "losses": {"sdm": 1.0}}
    )
    tokenizer = caption_tokenizer(config, captions)
    torch.manual_seed(0)
    return PfcvrModel.untrained(config, tokenizer, identities=2)


@pytest.fixture
def here(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """The loopback Hub as the one that this process talks to, without waits."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("pfcvr.hub.refusals.time.sleep", lambda seconds: None)
    return hub


def test_a_model_goes_there_once_and_a_card_that_somebody_wrote_stays(here: LoopbackHub, model: PfcvrModel) -> None:
    address = model.push_to_hub("lab/cars", private=True, token=OWNER_TOKEN, commit_message="First weights")
    repository = here.repository("lab/cars", "model")
    assert address == f"{here.url}/lab/cars/commit/{list(repository.commits)[-1]}"
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(repository.files)
    assert all(request.private for request in here.asked("POST /api/models/lab/cars/commit"))
    commits, sent = len(repository.commits), len(here.asked("PUT /lfs/lab/cars"))
    assert model.push_to_hub("lab/cars", token=OWNER_TOKEN) == address
    assert (len(repository.commits), len(here.asked("PUT /lfs/lab/cars"))) == (commits, sent)
    card = repository.files["README.md"]
    with torch.no_grad():
        model.towers.image_positions += 1
    model.config = model.config.model_copy(update={"image_size": (32, 32)})
    model.push_to_hub("lab/cars", token=OWNER_TOKEN)
    assert len(repository.commits) == commits + 1
    assert repository.files["README.md"] == card


def test_what_pfcvr_push_published_is_not_half_replaced(here: LoopbackHub, model: PfcvrModel) -> None:
    model.push_to_hub("lab/run", token=OWNER_TOKEN)
    repository = here.repository("lab/run", "model")
    repository.files["pfcvr.json"] = repository.files["config.json"]
    commits = len(repository.commits)
    with pytest.raises(HubError, match="lab/run: holds a run with its recipe and results, .* publish the new run with"):
        model.push_to_hub("lab/run", token=OWNER_TOKEN)
    assert len(repository.commits) == commits


def test_refusals_are_the_sentences_of_pfcvr_push_and_hold_no_token(here: LoopbackHub, model: PfcvrModel) -> None:
    with pytest.raises(HubError) as refused:
        model.push_to_hub("lab/cars", token=LOOKER_TOKEN)
    assert str(refused.value).startswith("lab/cars: the access token may not do that (403); use one that may write to")
    here.faults = [Fault(r"POST .*/commit/", status=503, times=10_000)]
    with pytest.raises(HubError) as troubled:
        model.push_to_hub("lab/cars", token=OWNER_TOKEN)
    assert str(troubled.value) == "lab/cars: the Hub has trouble (503); run the same command again later, it continues"
    assert OWNER_TOKEN not in str(troubled.value)
