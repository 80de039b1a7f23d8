"""Which processor computes, and how many of its helpers load images."""

import os

import torch

from pfcvr.config import ComputeSettings, DeviceSettings
from pfcvr.errors import BackendError

MOST_WORKERS = 8


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
