"""Which processor computes, and how many of its helpers load images."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pfcvr.config import ComputeSettings, DeviceSettings
from pfcvr.errors import BackendError, StageStopped

MOST_WORKERS = 8
ON_CPU = "no CUDA device here: training on the CPU"
OUT_OF_MEMORY = ("_STATUS_ALLOC_FAILED", "CUDA error: out of memory")  # said by cuBLAS and cuDNN; by CUDA itself


def check_device(device: str) -> None:
    """Raise BackendError when ``device`` is asked for and absent."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("no CUDA device here; use --device cpu, or a machine with a GPU")


def torch_device(settings: DeviceSettings) -> str:
    """``cuda`` or ``cpu``; ``auto`` takes CUDA where there is one. Raises BackendError when it is absent."""
    check_device(settings.device)
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return settings.device


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory did not suffice: what torch takes for tensors, or libraries for their own work."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)


@contextmanager
def full_gpu_stops(what: str) -> Iterator[None]:
    """Turn a lack of memory on the GPU into StageStopped: there is no room for ``what``."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise no_room(what) from None


def no_room(what: str) -> StageStopped:
    """The error that says that the GPU's memory does not suffice for ``what``."""
    return StageStopped(
        f"the GPU has no room for {what}; end other programs that use it, choose another one with "
        "CUDA_VISIBLE_DEVICES, or run the same command with --device cpu"
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_each() -> int:
    """Cores for each of the training processes that a launcher started on this machine."""
    return max(cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def thread_count(settings: ComputeSettings) -> int:
    """Threads that compute: as asked, else all the cores there are for this process."""
    return settings.threads or cores_each()


def worker_count(settings: DeviceSettings) -> int:
    """Processes that load images: as asked, else half of the cores, since the other half computes."""
    return min(MOST_WORKERS, cores_each() // 2) if settings.workers is None else settings.workers
