"""Checkpoints whose writing breaks off."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
import torch

from pfcvr.model.checkpoint import TrainState, save_checkpoint


class Breaking(io.BytesIO):
    """A file that raises ``error`` at its third write, and at none that follows."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error, self.writes = error, 0

    def write(self, content) -> int:
        self.writes += 1
        if self.writes == 3:
            raise self.error
        return super().write(content)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_breaks_off_a_checkpoint_is_not_hidden_by_the_library_that_writes_it(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def breaking(path: Path) -> Iterator[IO[bytes]]:
        yield Breaking(error)

    monkeypatch.setattr("pfcvr.model.checkpoint.atomic_write", breaking)
    model = torch.nn.Linear(300, 300)
    with pytest.raises(type(error)):
        save_checkpoint(tmp_path / "checkpoint.pt", model, torch.optim.Adam(model.parameters()), TrainState())
