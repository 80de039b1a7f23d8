"""What an unfinished run needs to continue exactly: weights, optimizer, step, best so far. No pickle.

Random state is not among it: every draw of a run follows from its seed and the step.
The file is replaced by rename, so there is always a whole one. It is read with ``weights_only``, which refuses code.
"""

import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from pfcvr.errors import CheckpointError, first_line
from pfcvr.files import atomic_write
from pfcvr.model.device import full_gpu_stops


@dataclass
class TrainState:
    """How far a run is. ``metrics_bytes``: length of ``metrics.jsonl`` at that step; the rest belongs to a lost future.

    ``best`` holds the step of the best weights and their metrics, as ``metrics.jsonl`` has them.
    """

    step: int = 0
    metrics_bytes: int = 0
    best: dict[str, float | int] | None = None


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState) -> None:
    """Write everything to ``path``, whole or not at all."""
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": asdict(state),
    }
    with plain_disk_errors(), atomic_write(path) as file:
        torch.save(content, file)


@contextmanager
def plain_disk_errors() -> Iterator[None]:
    """Raise what torch and safetensors hide in errors of their own when the writing of a file breaks off: an OSError or
    Ctrl-C."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError | KeyboardInterrupt):
            raise error.__context__ from None
        raise
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is not None:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
        raise


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """Put model and optimizer back as they were; a run without a checkpoint starts at step 0.

    Raises:
        CheckpointError: the file is damaged or belongs to another model.
        StageStopped: a GPU has no room for it.
    """
    if not path.is_file():
        return TrainState()
    content = _read(path)
    try:
        with full_gpu_stops("the model and its optimizer"):
            model.load_state_dict(content["model"])
            optimizer.load_state_dict(content["optimizer"])
        state = TrainState(**content["state"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint is of another model ({first_line(error)}); train again in a new folder"
        ) from None
    return state


def read_state(path: Path) -> TrainState:
    """How far the run is that wrote ``path``; step 0 where there is no checkpoint yet."""
    return TrainState(**_read(path)["state"]) if path.is_file() else TrainState()


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: damaged checkpoint ({first_line(error)}); train again in a new folder"
        ) from None
    return content
