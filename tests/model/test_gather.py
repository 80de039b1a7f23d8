"""Several training processes compute what one does: real processes, talking over loopback."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pfcvr.model.batch import IGNORED_LABEL, Batch
from pfcvr.model.pfcvr import PfcvrModel

CHILD = Path(__file__).with_name("gather_child.py")
FIELDS = ("images", "token_ids", "masked_token_ids", "masked_labels", "part_grids", "identities", "patch_draws")


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


def two_processes(folder: Path, pairs: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--local-addr=127.0.0.1", str(CHILD), str(folder), pairs, str(folder / "result.pt")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return torch.load(folder / "result.pt", weights_only=True)


@pytest.mark.parametrize("pairs", ["5,3", "1,0"])
def test_two_processes_train_as_one(
    tiny_model: Callable[..., PfcvrModel], tiny_batch: Callable[..., Batch], tmp_path: Path, pairs: str
) -> None:
    """Losses, gradients and the weights after two steps, in float64; also where a process has no pair at all."""
    tiny_model(4).save_pretrained(tmp_path / "model")
    model = PfcvrModel.from_pretrained(tmp_path / "model").double()
    size = sum(int(count) for count in pairs.split(","))
    tensors = uneven(tiny_batch(model, identities=[0, 1, 2, 0, 3, 0, 1, 3]))
    tensors = {name: tensor[:size] for name, tensor in tensors.items()}
    torch.save(tensors, tmp_path / "batch.pt")
    several = two_processes(tmp_path, pairs)
    alone = one_process(model, tensors)
    assert set(alone["steps"][0]) == {"sdm", "itc", "id", "part_itc", "part_across", "part_mlm", "mlm", "mim"}
    for found in ("steps", "gradients", "weights"):
        torch.testing.assert_close(several[found], alone[found], rtol=1e-9, atol=1e-12)
