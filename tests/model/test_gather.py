"""Several training processes compute what one does: real processes, talking over loopback."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pfcvr.config import LossWeights, variant_values
from pfcvr.model.batch import IGNORED_LABEL, Batch
from pfcvr.model.pfcvr import PfcvrModel

CHILD = Path(__file__).with_name("gather_child.py")
TEXT_FIELDS = ("token_ids", "masked_token_ids", "masked_labels", "part_token_ids")
FIELDS = ("images", "part_grids", "patch_draws", "identities", *TEXT_FIELDS)


def uneven(batch: Batch) -> dict[str, torch.Tensor]:
    """The batch in float64; masked words and parts lie so that any cut in two gives the halves different numbers."""
    tensors = {name: getattr(batch, name).clone() for name in FIELDS}
    tensors["masked_labels"][5:] = IGNORED_LABEL
    tensors["part_grids"][[0, 6, 7]] = False
    tensors["part_grids"][4, 2:] = False
    floating = {name for name in FIELDS if tensors[name].is_floating_point()}
    return {name: tensor.double() if name in floating else tensor for name, tensor in tensors.items()}


def one_process(model: PfcvrModel, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = []
    for _ in range(2):
        optimizer.zero_grad()
        losses = model(Batch(**tensors))
        model.total(losses).backward()
        optimizer.step()
        steps.append({name: loss.detach() for name, loss in losses.items()})
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"steps": steps, "gradients": gradients, "weights": model.state_dict()}


LOSSES = tuple(LossWeights.model_fields)
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "paper": ("5,3", {}, LOSSES),
    "one process without a pair": ("1,0", {}, LOSSES),
    "official": (
        "3,5",
        {**variant_values("official")["model"], "part_decoder_depth": 1, "patch_decoder_depth": 1},
        LOSSES,
    ),
    "extended": ("5,3", variant_values("extended")["model"], LOSSES),
    "parts alone are hidden": ("4,4", {"masked_patches": "zero", "masked_patch_choice": "parts"}, LOSSES),
    **{f"{name} alone": ("5,3", {}, (name,)) for name in LOSSES},
}
"""Pairs of the two processes, settings of the model, and its losses."""


def test_two_processes_train_as_one(
    tiny_model: Callable[..., PfcvrModel], tiny_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    """Losses, gradients and the weights after two steps, in float64."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--local-addr=127.0.0.1", str(CHILD)]
    expected = {}
    for number, (case, (pairs, settings, losses)) in enumerate(CASES.items()):
        folder = tmp_path / str(number)
        weights = {name: 0.5 * (name in losses) for name in LOSSES}
        tiny_model(4, **{**settings, "losses": weights}).save_pretrained(folder / "model")
        model = PfcvrModel.from_pretrained(folder / "model").double()
        size = sum(int(count) for count in pairs.split(","))
        tensors = uneven(tiny_batch(model, identities=[0, 1, 2, 0, 3, 0, 1, 3]))
        tensors = {name: tensor[:size] for name, tensor in tensors.items()}
        torch.save(tensors, folder / "batch.pt")
        expected[case] = (folder, one_process(model, tensors))
        command += [str(folder), pairs]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for case, (folder, alone) in expected.items():
        several = torch.load(folder / "result.pt", weights_only=True)
        assert set(alone["steps"][0]) == set(CASES[case][2]), case
        for found in ("steps", "gradients", "weights"):
            torch.testing.assert_close(
                several[found], alone[found], rtol=1e-8, atol=1e-11, msg=lambda text, case=case: f"{case}: {text}"
            )
