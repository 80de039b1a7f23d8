"""An empty workspace for a stage."""

from pathlib import Path

import pytest

from pfcvr.store import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws", create=True)
