"""What a data set is read with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pfcvr.config import ExportConfig
from pfcvr.pipeline import export
from pfcvr.stage import RunOptions


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """``datasets.load_dataset`` without network or a shared cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    return lambda out: datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def published(whole, tmp_path) -> Path:
    """Annotations of 14 images with pictures that hashes can tell apart."""
    export.run(
        whole.workspace, ExportConfig(out=tmp_path / "annotations", format="annotations"), RunOptions(quiet=True)
    )
    return tmp_path / "annotations"
