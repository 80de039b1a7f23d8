"""``PfcvrModel.push_to_hub``, called from Python, against the same Hub and by the same way as ``pfcvr push``."""

from pathlib import Path

import pytest
import torch
from hub.hub_repositories import LOOKER_TOKEN, OWNER_TOKEN, READER_TOKEN
from hub.loopback_hub import Fault, LoopbackHub

from pfcvr.config import ModelConfig
from pfcvr.errors import HubError
from pfcvr.hub import Publication, publish
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
    files = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + files)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("pfcvr.hub.refusals.time.sleep", lambda seconds: None)
    return hub


def change(model: PfcvrModel) -> None:
    with torch.no_grad():
        model.towers.image_positions += 1


def same_weights(model: PfcvrModel, revision: str | None, cache: Path) -> bool:
    """Whether the model that the Hub gives at ``revision`` has the same weights."""
    there = PfcvrModel.from_pretrained("lab/cars", revision=revision, token=OWNER_TOKEN, cache_dir=cache).state_dict()
    return all(torch.equal(weight, there[name]) for name, weight in model.state_dict().items())


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
    change(model)
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


def test_a_branch_is_made_where_the_main_one_stands_and_loads_by_its_name(
    here: LoopbackHub, model: PfcvrModel, tmp_path: Path
) -> None:
    model.push_to_hub("lab/cars", token=OWNER_TOKEN)
    repository = here.repository("lab/cars", "model")
    repository.put("README.md", b"# Written by somebody\n")
    main = repository.head
    change(model)
    address = model.push_to_hub("lab/cars", token=OWNER_TOKEN, revision="trial/one")
    branch = repository.refs["trial/one"]
    assert address == f"{here.url}/lab/cars/commit/{branch}"
    assert repository.head == main != branch
    assert repository.commits[branch]["README.md"] == repository.files["README.md"]
    assert same_weights(model, "trial/one", tmp_path)
    assert not same_weights(model, None, tmp_path)
    commits, sent = len(repository.commits), len(here.asked("PUT /lfs/lab/cars"))
    assert model.push_to_hub("lab/cars", token=OWNER_TOKEN, revision="trial/one") == address
    assert (len(repository.commits), len(here.asked("PUT /lfs/lab/cars"))) == (commits, sent)
    change(model)
    model.push_to_hub("lab/cars", token=OWNER_TOKEN, revision="trial/one")
    assert same_weights(model, "trial/one", tmp_path)
    assert len(repository.commits) == commits + 1


def test_a_branch_of_a_new_repository_and_one_of_the_same_weights(
    here: LoopbackHub, model: PfcvrModel, tmp_path: Path
) -> None:
    address = model.push_to_hub("lab/cars", private=True, token=OWNER_TOKEN, revision="trial")
    repository = here.repository("lab/cars", "model")
    assert set(repository.files) == {".gitattributes"}
    assert all(request.private for request in here.asked("POST /api/models/lab/cars/(branch|preupload|commit)"))
    model.push_to_hub("lab/cars", token=OWNER_TOKEN)
    commits = len(repository.commits)
    main = model.push_to_hub("lab/cars", token=OWNER_TOKEN, revision="again")
    assert len(repository.commits) == commits
    assert main == f"{here.url}/lab/cars/commit/{repository.refs['again']}" != address
    assert same_weights(model, "again", tmp_path)


def test_a_pull_request_is_opened_with_all_files_and_leaves_the_main_branch(
    here: LoopbackHub, model: PfcvrModel, tmp_path: Path
) -> None:
    model.push_to_hub("lab/cars", token=OWNER_TOKEN)
    repository = here.repository("lab/cars", "model")
    repository.put("README.md", b"# Written by somebody\n")
    main, commits = repository.head, len(repository.commits)
    change(model)
    address = model.push_to_hub("lab/cars", token=OWNER_TOKEN, commit_message="Better weights", create_pr=True)
    assert address == f"{here.url}/lab/cars/discussions/1"
    assert (repository.head, len(repository.commits), repository.messages[-1]) == (main, commits + 1, "Better weights")
    assert repository.commits[repository.refs["refs/pr/1"]]["README.md"] == repository.files["README.md"]
    assert same_weights(model, "refs/pr/1", tmp_path)
    change(model)
    model.push_to_hub("lab/cars", token=OWNER_TOKEN, revision="refs/pr/1")
    assert same_weights(model, "refs/pr/1", tmp_path)
    assert set(repository.refs) == {"main", "refs/pr/1"}


def test_no_pull_request_is_opened_for_what_is_there(here: LoopbackHub, model: PfcvrModel) -> None:
    address = model.push_to_hub("lab/cars", token=OWNER_TOKEN)
    assert model.push_to_hub("lab/cars", token=OWNER_TOKEN, create_pr=True) == address
    assert set(here.repository("lab/cars", "model").refs) == {"main"}


def test_whoever_may_not_write_there_may_open_a_pull_request_and_do_no_more(
    here: LoopbackHub, model: PfcvrModel, tmp_path: Path
) -> None:
    model.push_to_hub("lab/cars", token=OWNER_TOKEN)
    repository = here.repository("lab/cars", "model")
    change(model)
    for denied in ({"revision": "trial"}, {"revision": "main"}, {"create_pr": True, "private": True}):
        with pytest.raises(HubError, match=r"lab/cars: the access token may not do that \(403\)"):
            model.push_to_hub("lab/cars", token=LOOKER_TOKEN, **denied)
    with pytest.raises(HubError, match="may not open a pull request there, .* use a token with the role write"):
        model.push_to_hub("lab/cars", token=READER_TOKEN, create_pr=True)
    assert set(repository.refs) == {"main"}
    assert not repository.private
    assert model.push_to_hub("lab/cars", token=LOOKER_TOKEN, create_pr=True).endswith("/lab/cars/discussions/1")
    assert same_weights(model, "refs/pr/1", tmp_path)


def test_private_holds_before_a_pull_request_is_sent(here: LoopbackHub, model: PfcvrModel) -> None:
    address = model.push_to_hub("lab/cars", private=True, token=OWNER_TOKEN, create_pr=True)
    assert address == f"{here.url}/lab/cars/discussions/1"
    assert all(request.private for request in here.asked("POST /api/models/lab/cars/(preupload|commit)"))
    assert set(here.repository("lab/cars", "model").files) == {".gitattributes"}


def test_a_run_is_not_half_replaced_on_a_branch_or_by_a_pull_request(here: LoopbackHub, model: PfcvrModel) -> None:
    model.push_to_hub("lab/run", token=OWNER_TOKEN)
    repository = here.repository("lab/run", "model")
    repository.put("pfcvr.json", b"{}")
    change(model)
    for how in ({"revision": "trial"}, {"create_pr": True}):
        with pytest.raises(HubError, match="lab/run: holds a run with its recipe and results"):
            model.push_to_hub("lab/run", token=OWNER_TOKEN, **how)
    assert set(repository.refs) == {"main"}


@pytest.mark.parametrize("revision", ["", "..", "a b", "a..b", "refs/pr/7", "refs/heads/x", "-x", "x/"])
def test_a_name_that_no_branch_can_have_is_one_sentence(here: LoopbackHub, model: PfcvrModel, revision: str) -> None:
    model.push_to_hub("lab/cars", token=OWNER_TOKEN)
    with pytest.raises(HubError) as refused:
        model.push_to_hub("lab/cars", token=OWNER_TOKEN, revision=revision)
    assert str(refused.value) == (
        f"lab/cars: the Hub takes no branch of the name {revision!r}; give letters and digits, with - . or / between "
        "them, or leave revision out for the main branch"
    )
    assert set(here.repository("lab/cars", "model").refs) == {"main"}


def test_a_commit_is_no_branch(here: LoopbackHub, model: PfcvrModel) -> None:
    model.push_to_hub("lab/cars", token=OWNER_TOKEN)
    head = here.repository("lab/cars", "model").head
    change(model)
    with pytest.raises(
        HubError, match="lab/cars: what was given as revision is no branch of the repository .404.; give"
    ):
        model.push_to_hub("lab/cars", token=OWNER_TOKEN, revision=head)


def test_a_pull_request_to_another_branch_is_refused_before_anything_is_asked(
    here: LoopbackHub, model: PfcvrModel
) -> None:
    with pytest.raises(HubError) as refused:
        model.push_to_hub("lab/cars", token=OWNER_TOKEN, revision="trial", create_pr=True)
    assert str(refused.value) == (
        "lab/cars: a pull request goes to the main branch, not to 'trial'; leave out revision or create_pr"
    )
    assert not here.state.journal
    assert model.push_to_hub("lab/cars", token=OWNER_TOKEN, revision="main", create_pr=True).endswith("/discussions/1")


@pytest.mark.parametrize("how", [{"revision": "trial"}, {"create_pr": True}])
def test_other_bytes_than_were_sent_are_noticed_there_too(
    here: LoopbackHub, model: PfcvrModel, how: dict[str, bool | str]
) -> None:
    model.push_to_hub("lab/cars", token=OWNER_TOKEN)
    model.config = model.config.model_copy(update={"image_size": (32, 32)})
    here.state.swaps = {"config.json": b"{}"}
    with pytest.raises(HubError, match=r"config\.json did not arrive as they are here"):
        model.push_to_hub("lab/cars", token=OWNER_TOKEN, **how)


def test_a_pull_request_also_removes_what_an_earlier_publication_left(here: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "pfcvr.json").write_text('{"files": {"old.txt": ""}}')
    (tmp_path / "old.txt").write_text("old")
    publish(Publication(tmp_path, "lab/cars", "dataset"), token=OWNER_TOKEN)
    repository = here.repository("lab/cars")
    repository.put("theirs.txt", b"of somebody else")
    (tmp_path / "old.txt").rename(tmp_path / "new.txt")
    done = publish(Publication(tmp_path, "lab/cars", "dataset", create_pr=True), overwrite=True, token=OWNER_TOKEN)
    assert (done.address, done.removed) == (f"{here.url}/datasets/lab/cars/discussions/1", ("old.txt",))
    proposed = repository.commits[repository.refs["refs/pr/1"]]
    assert set(proposed) == {".gitattributes", "pfcvr.json", "new.txt", "theirs.txt"}
    assert set(repository.files) == {".gitattributes", "pfcvr.json", "old.txt", "theirs.txt"}


def test_an_answer_that_is_lost_opens_no_second_pull_request(here: LoopbackHub, model: PfcvrModel) -> None:
    here.faults = [Fault(r"PUT /lfs/", drop=True), Fault(r"POST .*/commit/", lose=True)]
    with pytest.raises(HubError) as lost:
        model.push_to_hub("lab/cars", token=OWNER_TOKEN, create_pr=True)
    assert str(lost.value) == (
        f"lab/cars: the Hub did not say whether it opened the pull request; look for it on {here.url}/lab/cars/"
        "discussions, and run the same command again if it is not there"
    )
    assert set(here.repository("lab/cars", "model").refs) == {"main", "refs/pr/1"}
    assert not here.faults or all(fault.times == 0 for fault in here.faults)


def test_a_branch_that_breaks_off_is_continued(here: LoopbackHub, model: PfcvrModel) -> None:
    passing = Fault(r"POST .*/branch/", lose=True)
    here.faults = [passing, Fault(r"POST .*/commit/", status=413)]
    with pytest.raises(HubError, match="takes no files as large as these"):
        model.push_to_hub("lab/cars", token=OWNER_TOKEN, revision="trial")
    sent = len(here.asked("PUT /lfs/lab/cars"))
    model.push_to_hub("lab/cars", token=OWNER_TOKEN, revision="trial")
    assert passing.times == 0
    assert len(here.asked("PUT /lfs/lab/cars")) == sent
