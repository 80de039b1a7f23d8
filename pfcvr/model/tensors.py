"""Tensors written as a safetensors file that others may read as far as the umask allows."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write ``tensors`` to ``path`` with the mode of a new file: safetensors' own is readable for its owner alone."""
    path.touch()
    mode = path.stat().st_mode & 0o777
    save_file(tensors, path, metadata=metadata)
    path.chmod(mode)
