"""``pfcvr push`` against a Hub on this machine, and everything that takes what was pushed by its name."""

import json
import shutil
from pathlib import Path

import pytest
from folders import files_of
from hub.conftest import Program
from hub.hub_repositories import LOOKER_TOKEN, OWNER_TOKEN
from hub.loopback_hub import Fault, LoopbackHub

SMALL = (
    "schedule.length=4", "schedule.warmup=1", "schedule.evaluate_every=2", "batch_size=4", "model.image_size=[16, 16]",
    "model.text_length=16", "model.vocabulary_size=600", "model.towers.embedding_dim=16",
    "model.towers.vision_width=16", "model.towers.vision_mlp=16", "model.towers.vision_layers=1",
    "model.towers.text_width=16", "model.towers.text_mlp=16", "model.towers.text_layers=1",
)  # fmt: skip
TRAIN = ("--workers", 0, "--device", "cpu", *(word for setting in SMALL for word in ("--set", setting)))


@pytest.fixture
def published_set(program: Program, hub: LoopbackHub, open_set: Path) -> str:
    """The name of a data set with images on the Hub."""
    assert program("pfcvr-data", "push", "-w", open_set, "lab/vehicles").code == 0
    return "lab/vehicles"


@pytest.fixture(scope="session")
def _trained(
    run_in_client: Program, _server: LoopbackHub, _workspaces: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run trained on, and evaluated on, a data set of the Hub."""
    _server.forget()
    out = tmp_path_factory.mktemp("runs") / "run"
    for program, *arguments in (
        ("pfcvr-data", "push", "-w", _workspaces / "open", "lab/vehicles"),
        ("pfcvr", "train", "--data", "lab/vehicles", "--out", out, *TRAIN),
        ("pfcvr", "eval", out, "--data", "lab/vehicles", "--workers", 0),
    ):
        outcome = run_in_client(program, *arguments)
        assert outcome.code == 0, outcome.out
    return out


@pytest.fixture
def run(_trained: Path, hub: LoopbackHub, tmp_path: Path) -> Path:
    """A copy of that run, beside an empty Hub."""
    return Path(shutil.copytree(_trained, tmp_path / "run"))


def test_a_model_goes_there_and_comes_back(
    program: Program, hub: LoopbackHub, run: Path, published_set: str, tmp_path: Path
) -> None:
    done = program("pfcvr", "push", run, "lab/search").result
    files = {name: file.content for name, file in hub.repository("lab/search", "model").files.items()}
    assert {"model.safetensors", "config.json", "README.md", "recipe.toml", "run.json", "results.json"} <= set(files)
    assert files["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    assert done["published"]["sent"] == len(files) - 1
    assert done["published"]["address"] == f"{hub.url}/lab/search/commit/{done['published']['commit']}"
    assert not any(str(tmp_path).encode() in content for content in files.values())
    again = program("pfcvr", "push", run, "lab/search").result["published"]
    assert (again["sent"], again["commit"]) == (0, done["published"]["commit"])
    results = json.loads(files["results.json"])["test"]
    for name, (low, high) in results["intervals"].items():
        assert low <= results["metrics"][name] <= high
    here = program("pfcvr", "eval", run, "--data", "lab/vehicles", "--workers", 0).result
    there = program("pfcvr", "eval", "lab/search", "--data", "lab/vehicles", "--workers", 0)
    assert "lab/search: fetched from the Hub" in there.err
    assert there.result["metrics"] == here["metrics"]
    found = program("pfcvr", "search", "lab/search", "a white van", "--data", "lab/vehicles", "--workers", 0)
    assert found.code == 0
    assert "fetched" not in found.err


def test_a_dry_run_is_what_is_pushed_later(program: Program, hub: LoopbackHub, run: Path) -> None:
    asked = len(hub.state.journal)
    dry = program("pfcvr", "push", run, "lab/dry-model", "--dry-run").result
    assert (dry["published"], len(hub.state.journal)) == (None, asked)
    written = files_of(Path(dry["folder"]))
    assert program("pfcvr", "push", run, "lab/dry-model", "--private").code == 0
    repository = hub.repository("lab/dry-model", "model")
    files = {name: file.content for name, file in repository.files.items() if name != ".gitattributes"}
    assert files == written
    assert repository.private
    assert all(request.private for request in hub.asked("POST /api/models/lab/dry-model/commit"))


def test_the_card_states_what_was_measured(program: Program, hub: LoopbackHub, run: Path) -> None:
    from huggingface_hub import ModelCard

    folder = Path(program("pfcvr", "push", run, "lab/card", "--dry-run").result["folder"])
    card = ModelCard.load(folder / "README.md")
    measured = json.loads((run / "eval-test.json").read_text())
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["mAP"].metric_value == round(measured["metrics"]["mAP"], 2)
    assert (results["mAP"].dataset_name, results["mAP"].dataset_split) == ("lab/vehicles", "test")
    assert "Method pfcvr, variant paper, protocol clean, seed 0" in card.text
    assert f"| {measured['chance']['rank1']:.1f} | {measured['chance']['mAP']:.1f} |" in card.text
    assert "Data: lab/vehicles, " in card.text


def test_a_run_that_is_not_finished_or_was_damaged_is_not_published(
    program: Program, hub: LoopbackHub, run: Path, tmp_path: Path
) -> None:
    sentence = program("pfcvr", "push", tmp_path / "none", "lab/none").sentence
    assert sentence == f"{tmp_path}/none: no training run here; make one with: pfcvr train --out {tmp_path}/none"
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "not a whole safetensors file" in program("pfcvr", "push", run, "lab/torn").sentence
    weights.unlink()
    assert "no model.safetensors; restore the file" in program("pfcvr", "push", run, "lab/torn").sentence
    assert not hub.asked("lab/torn")


def test_other_weights_that_come_back_are_told(program: Program, hub: LoopbackHub, run: Path) -> None:
    content = bytearray((run / "model" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    hub.state.served = {"model.safetensors": bytes(content)}
    sentence = program("pfcvr", "push", run, "lab/other").sentence
    assert sentence.startswith(
        "lab/other: another model was loaded back than was published; run the same command again"
    )


def test_a_model_push_that_breaks_off_is_continued(program: Program, hub: LoopbackHub, run: Path) -> None:
    hub.faults = [Fault(r"POST .*/commit/", status=503, times=10_000)]
    assert program("pfcvr", "push", run, "lab/continued").sentence == (
        "lab/continued: the Hub has trouble (503); run the same command again later, it continues"
    )
    hub.faults = []
    sent = len(hub.asked("PUT /lfs/lab/continued"))
    assert program("pfcvr", "push", run, "lab/continued").code == 0
    assert len(hub.asked("PUT /lfs/lab/continued")) == sent


def test_names_that_are_neither_here_nor_there(program: Program, hub: LoopbackHub) -> None:
    missing = "no such folder here, and on the Hub: the Hub has no such repository, or the access token may not see it"
    assert missing in program("pfcvr", "eval", "lab/nowhere", "--data", "lab/nothing").sentence
    training = program("pfcvr", "train", "--data", "lab/nothing", "--out", "run", *TRAIN)
    assert training.sentence.startswith(f"lab/nothing: {missing}")
    hub.state.create(f"Bearer {OWNER_TOKEN}", {"name": "plain", "organization": "lab", "type": "model"})
    assert program("pfcvr", "eval", "lab/plain", "--data", "lab/nothing").sentence == (
        "lab/plain: a model on the Hub that pfcvr push did not publish; give a run of pfcvr train"
    )


def test_info_and_compare_take_a_run_by_its_name_on_the_hub(
    program: Program, hub: LoopbackHub, run: Path, tmp_path: Path
) -> None:
    assert program("pfcvr", "push", run, "lab/search").code == 0
    read_back = len(hub.asked("GET .*safetensors"))
    here = program("pfcvr", "info", run).result
    there = program("pfcvr", "info", "lab/search").result
    assert there["run"] == "lab/search"
    assert {name: there[name] for name in ("metrics", "steps", "parameters", "evaluations")} == {
        name: here[name] for name in ("metrics", "steps", "parameters", "evaluations")
    }
    both = program("pfcvr", "compare", run, "lab/search").result
    first, second = both["rows"]
    assert (first["run"], second["run"]) == (str(run), "lab/search")
    assert second["metrics"] == first["metrics"]
    assert {found["difference"] for found in second["against_first"].values()} == {0.0}
    assert len(hub.asked("GET .*safetensors")) == read_back
    assert not (tmp_path / "lab").exists()


def test_a_published_run_holds_what_each_query_reached_and_none_of_its_words(
    program: Program, hub: LoopbackHub, run: Path
) -> None:
    assert program("pfcvr", "push", run, "lab/quiet").code == 0
    files = hub.repository("lab/quiet", "model").files
    rows = [json.loads(line) for line in files["queries-test.jsonl"].content.splitlines()]
    asked = [json.loads(line) for line in (run / "queries-test.jsonl").read_text().splitlines()]
    assert [row["first_hit_rank"] for row in rows] == [row["first_hit_rank"] for row in asked]
    published = b"".join(file.content for name, file in files.items() if name != "tokenizer.json")
    assert not any(row["caption"].encode() in published or row["image_id"].encode() in published for row in asked)


def test_a_published_run_knows_what_it_was_trained_on_and_keeps_its_data_sets_apart(
    program: Program, hub: LoopbackHub, run: Path, published_set: str
) -> None:
    foreign = json.loads((run / "eval-test.json").read_text())
    foreign |= {"data": "elsewhere", "data_fingerprint": "0123abcd" * 8, "own_data": False}
    (run / "eval-test-0123abcd.json").write_text(json.dumps(foreign))
    shutil.copy(run / "queries-test.jsonl", run / "queries-test-0123abcd.jsonl")
    done = program("pfcvr", "push", run, "lab/apart", "--license", "cc-by-nc-4.0")
    assert done.result["licence"] == "cc-by-nc-4.0"
    assert list(program("pfcvr", "info", "lab/apart").result["evaluations"]) == ["test", "test-0123abcd"]
    on_train = program("pfcvr", "eval", "lab/apart", "--data", published_set, "--split", "train", "--workers", 0)
    assert on_train.result["trained_on"]["images"] == on_train.result["gallery"]
    assert "warning: lab/apart was trained on " in on_train.err
    card = hub.repository("lab/apart", "model").files["README.md"].content.decode()
    for line in (
        "license: cc-by-nc-4.0",
        "datasets:\n- lab/vehicles",
        "| elsewhere | test |",
        "| lab/vehicles | test |",
    ):
        assert line in card


def test_names_of_files_that_a_published_run_claims_stay_inside_its_folder(
    program: Program, hub: LoopbackHub, run: Path, tmp_path: Path
) -> None:
    assert program("pfcvr", "push", run, "lab/sly").code == 0
    repository = hub.repository("lab/sly", "model")
    results = json.loads(repository.files["results.json"].content)
    results |= {"x/../../../escaped": results["test"], "../escaped": results["test"]}
    hub.state.served = {"results.json": json.dumps(results).encode()}
    assert list(program("pfcvr", "info", "lab/sly").result["evaluations"]) == ["test"]
    assert not list(tmp_path.rglob("*escaped*"))


def test_runs_that_cannot_be_compared_by_name_are_one_sentence(
    program: Program, hub: LoopbackHub, run: Path, published_set: str
) -> None:
    missing = (
        "lab/nowhere: no such folder here, and on the Hub: the Hub has no such repository, or the access token may not "
        "see it (404); check the name and the token"
    )
    assert program("pfcvr", "info", "lab/nowhere").sentence == missing
    assert program("pfcvr", "compare", run, "lab/nowhere").sentence == missing
    (run / "queries-test.jsonl").unlink()
    assert program("pfcvr", "push", run, "lab/old").code == 0
    assert program("pfcvr", "compare", "lab/old", "lab/old").sentence == (
        "lab/old: not evaluated query by query on split 'test'; give --data, or run: "
        "pfcvr eval lab/old --data D --split test"
    )
    measured = program("pfcvr", "compare", "lab/old", "lab/old", "--data", published_set, "--workers", 0)
    assert measured.result["queries"] > 0


def test_training_on_annotations_says_how_to_get_the_pixels(
    program: Program, hub: LoopbackHub, closed_set: Path
) -> None:
    assert program("pfcvr-data", "push", "-w", closed_set, "lab/words").code == 0
    assert program("pfcvr", "train", "--data", "lab/words", "--out", "run", *TRAIN).sentence == (
        "lab/words: holds annotations without pixels; join them with your own copy of the images first: "
        "pfcvr-data rebuild ANNOTATIONS --images ROOT --out OUT"
    )


def test_a_gated_data_set_opens_for_its_owner_alone(
    program: Program, hub: LoopbackHub, closed_set: Path, run: Path
) -> None:
    command = ("pfcvr-data", "push", "-w", closed_set, "lab/gated", "--with-images", "--right", "a letter")
    assert program(*command).code == 0
    hub.repository("lab/gated").private = False
    measure = ("pfcvr", "eval", run, "--data", "lab/gated", "--workers", 0)
    assert "Dataset 'lab/gated' is a gated dataset on the Hub" in program(*measure, token=LOOKER_TOKEN).sentence
    assert program(*measure).result["gallery"] == 6
