"""``pfcvr push`` against a Hub on this machine, and everything that takes what was pushed by its name."""

import json
from pathlib import Path

import pytest
from hub.conftest import Program
from hub.loopback_hub import LoopbackHub

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


@pytest.fixture
def run(program: Program, published_set: str, tmp_path: Path) -> Path:
    """A run trained on, and evaluated on, a data set of the Hub."""
    assert program("pfcvr", "train", "--data", published_set, "--out", tmp_path / "run", *TRAIN).code == 0
    assert program("pfcvr", "eval", tmp_path / "run", "--data", published_set, "--workers", 0).code == 0
    return tmp_path / "run"


def test_a_model_goes_there_and_comes_back(program: Program, hub: LoopbackHub, run: Path, tmp_path: Path) -> None:
    done = program("pfcvr", "push", run, "lab/search").result
    files = {name: file.content for name, file in hub.repository("lab/search", "model").files.items()}
    assert {"model.safetensors", "config.json", "README.md", "recipe.toml", "run.json", "results.json"} <= set(files)
    assert files["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    assert done["published"]["sent"] == len(files) - 1
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
