"""One of several training processes: its share of a batch, forward and backward, averaged; rank 0 saves what came out.

Arguments: the folder with ``model/`` and ``batch.pt``, pairs of each process joined by commas, the file for the result.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pfcvr.model.batch import Batch
from pfcvr.model.gather import mean_over_processes
from pfcvr.model.pfcvr import PfcvrModel

folder, pairs, result = Path(sys.argv[1]), tuple(int(count) for count in sys.argv[2].split(",")), Path(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo")
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
    torch.save({"steps": steps, "gradients": gradients, "weights": model.state_dict()}, result)
dist.barrier()
dist.destroy_process_group()
