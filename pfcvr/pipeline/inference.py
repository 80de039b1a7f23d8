"""Where a model of the data half runs, and in which precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pfcvr.config import CaptionConfig, PartsConfig
from pfcvr.errors import BackendError, StageStopped, first_line


class Inference:
    """A device and a precision: ``bfloat16`` means autocast, weights stay float32.

    ``auto`` takes the GPU where there is one, and bfloat16 there. Raises BackendError when CUDA is asked for and not
    there.
    """

    def __init__(self, config: PartsConfig | CaptionConfig) -> None:
        import torch

        if config.device == "cuda" and not torch.cuda.is_available():
            raise BackendError("no CUDA device here; use --device cpu, or a machine with a GPU")
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
        by_device = "bfloat16" if self.device == "cuda" else "float32"
        self.precision = by_device if config.precision == "auto" else config.precision

    @property
    def settings(self) -> dict[str, str]:
        """What results depend on beyond rounding."""
        return {"precision": self.precision}

    @contextmanager
    def running(self) -> Iterator[None]:
        """No gradients, and the precision that was chosen. Raises StageStopped when the GPU's memory is full."""
        import torch

        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"),
            ):
                yield
        except torch.OutOfMemoryError as error:
            raise StageStopped(
                f"the GPU has too little memory for so many images at a time ({first_line(error)}); run "
                "the same command with a smaller --batch, or with --device cpu, to continue"
            ) from None

    def place(self, values: Any) -> Any:
        """A module, a tensor or a batch of a processor on the device."""
        return values.to(self.device)
