"""One of several training processes: its share of a batch, two steps, averaged; rank 0 saves what came out of it.

Arguments: folders, each with ``model/`` and ``batch.pt``, and after each folder the pairs of each process.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pfcvr.model.batch import Batch
from pfcvr.model.gather import mean_over_processes
from pfcvr.model.pfcvr import PfcvrModel


def train(folder: Path, pairs: tuple[int, ...]) -> None:
    rank = dist.get_rank()
    model = PfcvrModel.from_pretrained(folder / "model").double()
    whole = torch.load(folder / "batch.pt", weights_only=True)
    first = sum(pairs[:rank])
    # A process without a pair holds somebody else's, which must not count.
    rows = slice(first, first + pairs[rank]) if pairs[rank] else slice(0, 1)
    batch = Batch(**{name: tensor[rows] for name, tensor in whole.items()}, pairs_on_processes=pairs)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = []
    for _ in range(2):
        optimizer.zero_grad()
        losses = wrapped(batch)
        model.total(losses).backward()
        optimizer.step()
        steps.append({name: mean_over_processes(loss.detach()) for name, loss in losses.items()})
    if rank == 0:
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        torch.save({"steps": steps, "gradients": gradients, "weights": model.state_dict()}, folder / "result.pt")


torch.set_num_threads(1)
dist.init_process_group("gloo")
for folder, counts in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    train(Path(folder), tuple(int(count) for count in counts.split(",")))
dist.barrier()
dist.destroy_process_group()
