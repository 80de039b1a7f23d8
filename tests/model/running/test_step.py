"""What a step may be told about the machine, and what it says when the machine is too small."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from pfcvr.config import EvalConfig, SearchConfig, TrainConfig
from pfcvr.errors import BackendError, StageStopped
from pfcvr.model.data import open_data
from pfcvr.model.encode import encode_split
from pfcvr.model.evaluate import evaluate
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.retrievers import load_retriever
from pfcvr.model.run_log import read_metrics
from pfcvr.model.search import search
from pfcvr.model.train import train

SHORT = ("schedule.length=12", "schedule.warmup=2", "schedule.evaluate_every=6")


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@pytest.fixture
def config(painted: Path, small_model: tuple[str, ...], tmp_path: Path) -> TrainConfig:
    """The training of ``finished_run``."""
    overrides = (*small_model, *SHORT)
    return TrainConfig(data=str(painted), out=tmp_path / "run", overrides=overrides, workers=0, threads=1)


def test_gradient_checkpointing_changes_no_bit_and_keeps_less(
    config: TrainConfig, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers of the towers are computed again in the backward pass."""
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

    calls = []
    honest = CLIPEncoderLayer.forward

    def forward(self: CLIPEncoderLayer, *args: object, **kwargs: object) -> object:
        calls.append(self.training)
        return honest(self, *args, **kwargs)

    monkeypatch.setattr(CLIPEncoderLayer, "forward", forward)
    train(config.model_copy(update={"gradient_checkpointing": True}), quiet=True)
    weights = weights_of(config.out)
    assert all(torch.equal(weights[name], weight) for name, weight in weights_of(finished_run).items())
    # 12 steps; a layer a tower; image, kept patches, captions, part names; forward and again backward.
    assert calls.count(True) == 12 * 4 * 2


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, while it traces
def test_compiled_layers_train_alike(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced for real, but run without generated code, which would take a minute to build.

    An epoch whose last batch is smaller, and two evaluations, stay within the number of shapes that torch compiles for.
    """
    config = config.model_copy(update={"overrides": (*config.overrides, "batch_size=25")})
    train(config.model_copy(update={"out": config.out.with_name("plain")}), quiet=True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    traced = torch._dynamo.utils.counters["stats"]["calls_captured"]
    try:
        train(config.model_copy(update={"compile": True}), quiet=True)
        assert torch._dynamo.utils.counters["stats"]["calls_captured"] > traced
    finally:
        torch._dynamo.reset()
    for name, weight in weights_of(config.out.with_name("plain")).items():
        torch.testing.assert_close(weights_of(config.out)[name], weight, atol=1e-3, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_layers_that_cannot_be_compiled_are_told_in_one_sentence_and_training_goes_on_without(
    config: TrainConfig, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real compiler, on a machine that lacks the C++ compiler which it calls."""
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    try:
        with pytest.raises(BackendError, match=r"failed at step 1 \(.*no-such-compiler.*\).* without --compile to"):
            train(config.model_copy(update={"compile": True}), quiet=True)
    finally:
        torch._dynamo.reset()
    train(config, quiet=True)
    weights = weights_of(config.out)
    assert all(torch.equal(weights[name], weight) for name, weight in weights_of(finished_run).items())


def test_a_batch_in_parts_is_the_mean_of_its_parts(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 9 pairs in parts of 5 and 4: the written loss is 5/9 of the one and 4/9 of the other."""
    seen: list[tuple[int, float]] = []
    honest = PfcvrModel.forward

    def forward(self: PfcvrModel, batch: object) -> dict[str, torch.Tensor]:
        losses = honest(self, batch)
        seen.append((len(batch.images), float(losses["id"].detach())))  # type: ignore[attr-defined]
        return losses

    monkeypatch.setattr(PfcvrModel, "forward", forward)
    overrides = (*config.overrides, "batch_size=9", "accumulation=2")
    train(config.model_copy(update={"overrides": overrides}), quiet=True)
    assert [pairs for pairs, _ in seen] == [5, 4] * 12
    written = [row["losses"]["id"] for row in read_metrics(config.out / "metrics.jsonl") if "losses" in row]
    means = [(5 * first + 4 * second) / 9 for (_, first), (_, second) in zip(seen[::2], seen[1::2], strict=True)]
    assert written == pytest.approx(means, abs=2e-6)


OUT_OF_MEMORY = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "CUDA": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
}
each_lack_of_memory = pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)


@each_lack_of_memory
def test_a_gpu_without_enough_memory_says_what_to_lower_and_the_run_continues(
    config: TrainConfig, finished_run: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    calls = []
    honest = PfcvrModel.forward

    def forward(self: PfcvrModel, batch: object) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == 9:
            raise error
        return honest(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(PfcvrModel, "forward", forward)
        sentence = (
            r"the GPU ran out of memory at step 9, with 8 pairs at a time at 32 x 32 pixels; run the same command with "
            r"--gradient-checkpointing .* lower --set batch_size=4, --set accumulation=2, or with a smaller"
        )
        with pytest.raises(StageStopped, match=sentence):
            train(config, quiet=True)
    train(config.model_copy(update={"gradient_checkpointing": True}), quiet=True)
    weights = weights_of(config.out)
    assert all(torch.equal(weights[name], weight) for name, weight in weights_of(finished_run).items())


@pytest.mark.parametrize(
    ("checkpointing", "batch", "ways"),
    [
        (True, 8, "8 pairs at a time .* pixels; train in a new folder with a lower --set batch_size=4, --set accum"),
        (
            False,
            1,
            "a pair at a time .* pixels; run .* --gradient-checkpointing to continue, or train .* a smaller model",
        ),
        (True, 1, "a pair at a time .* pixels; train in a new folder with a smaller .*, or on a GPU with more memory$"),
    ],
)
def test_a_gpu_without_enough_memory_names_only_what_can_still_be_lowered(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, checkpointing: bool, batch: int, ways: str
) -> None:
    def forward(self: PfcvrModel, batch: object) -> dict[str, torch.Tensor]:
        raise OUT_OF_MEMORY["torch"]

    monkeypatch.setattr(PfcvrModel, "forward", forward)
    overrides = (*config.overrides, f"batch_size={batch}")
    with pytest.raises(StageStopped, match=ways):
        train(config.model_copy(update={"overrides": overrides, "gradient_checkpointing": checkpointing}), quiet=True)


@each_lack_of_memory
def test_where_the_gpu_has_no_room_for_a_batch_its_halves_give_the_same_features(
    painted: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    """15 images and 30 captions, of which 4 at a time have room."""
    honest_images, honest_texts = PfcvrModel.encode_images, PfcvrModel.encode_texts

    def small(honest: Callable[..., torch.Tensor], model: PfcvrModel, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 4:
            raise error
        return honest(model, batch)

    rows = open_data(str(painted)).split("test")
    retriever = load_retriever("pfcvr", finished_run / "model", "cpu")
    expected = encode_split(retriever, rows, workers=0, quiet=True)
    monkeypatch.setattr(PfcvrModel, "encode_images", lambda model, batch: small(honest_images, model, batch))
    monkeypatch.setattr(PfcvrModel, "encode_texts", lambda model, batch: small(honest_texts, model, batch))
    found = encode_split(retriever, rows, workers=0, quiet=True)
    np.testing.assert_allclose(found.gallery, expected.gallery, atol=1e-5)
    np.testing.assert_allclose(found.queries, expected.queries, atol=1e-5)


@pytest.mark.parametrize(
    ("owner", "method"),
    [(Accelerator, "prepare"), (torch.optim.Adam, "load_state_dict"), (PfcvrModel, "encode_images")],
    ids=["at the start", "where the checkpoint is taken up", "in an evaluation"],
)
def test_a_gpu_without_room_for_the_least_is_told_and_the_run_continues(
    config: TrainConfig, finished_run: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    def no_room(*_: object) -> None:
        raise OUT_OF_MEMORY["torch"]

    config = config.model_copy(update={"overrides": (*config.overrides, "checkpoint_every=4")})
    with monkeypatch.context() as patch:
        patch.setattr("pfcvr.model.train.draw_curves", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, no_room)
        with pytest.raises(StageStopped, match=r"^the GPU has no room for .*; end other programs .* --device cpu$"):
            train(config, quiet=True)
    train(config, quiet=True)
    weights = weights_of(config.out)
    assert all(torch.equal(weights[name], weight) for name, weight in weights_of(finished_run).items())


@pytest.mark.parametrize("command", ["eval", "search"])
def test_a_gpu_without_room_for_the_model_is_told_by_the_commands_that_read_it(
    painted: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def no_room(*_: object) -> None:
        raise OUT_OF_MEMORY["torch"]

    monkeypatch.setattr(PfcvrModel, "to", no_room)
    settings = {"data": str(painted), "workers": 0}
    ask = {
        "eval": lambda: evaluate(EvalConfig(run=finished_run, **settings), quiet=True),
        "search": lambda: search(SearchConfig(source=finished_run, text="a red car", **settings), quiet=True),
    }
    with pytest.raises(StageStopped, match="^the GPU has no room for the model; end other programs"):
        ask[command]()
