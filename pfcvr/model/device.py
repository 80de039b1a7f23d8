"""Which processor computes, and how many of its helpers load images."""

import os

import torch

from pfcvr.config import DeviceSettings
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


def worker_count(settings: DeviceSettings) -> int:
    """Processes that load images: as asked, else half of the cores, since the other half computes."""
    return min(MOST_WORKERS, cores() // 2) if settings.workers is None else settings.workers
