"""An imported workspace of small pictures, and servers that misbehave by script."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fault_server as faults
import pytest
from folders import files_of
from workspaces import imported_pictures

from pfcvr.config import CaptionConfig
from pfcvr.pipeline import caption
from pfcvr.pipeline.captioners import openai_
from pfcvr.pipeline.captioners.chat_client import Retries
from pfcvr.records import Caption, Rejected
from pfcvr.stage import RunOptions, StageSummary
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)
SMALL_IMAGE = {"min_pixels": 32 * 32, "max_pixels": 64 * 64}


@dataclass
class Captioning:
    """A workspace to be captioned, and how."""

    workspace: Workspace

    def run(self, server: Any, options: RunOptions = QUIET, **settings: Any) -> StageSummary:
        values = {"captioner": "openai", "base_url": server.url, "image": SMALL_IMAGE, "concurrency": 4, "timeout": 10}
        config = CaptionConfig.model_validate(values | settings)
        with self.workspace.lock():
            return caption.run(self.workspace, config, options)

    def captions(self) -> dict[str, Caption]:
        return {row.image_id: row for row in self.workspace.records("caption", Caption)}

    def rejected(self) -> dict[str, Rejected]:
        return {row.subject: row for row in self.workspace.rejected("caption")}

    def kept_answers(self) -> int:
        """Answers in the cache that outlives every stage."""
        with closing(sqlite3.connect(self.workspace.root / "cache/answers.sqlite")) as db:
            (count,) = db.execute("SELECT count(*) FROM reply").fetchone()
        return int(count)

    def sealed_bytes(self) -> dict[str, bytes]:
        return files_of(self.workspace.folder("caption"), but=("telemetry.jsonl",))


def imported(folder: Path, count: int) -> Captioning:
    """``count`` pictures in a workspace below ``folder``."""
    return Captioning(imported_pictures(folder, count))


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[[int], Captioning]:
    return lambda count: imported(tmp_path, count)


@pytest.fixture
def import_pictures() -> Callable[[Path, int], Captioning]:
    return imported


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts servers that misbehave by script; runs wait little between tries."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(openai_, "RETRIES", Retries(tries=4, first_wait=0.01, longest_wait=0.05, patience=60))
    servers = []

    def start_server(**settings: Any) -> Any:
        servers.append(faults.FaultServer(**settings))
        return servers[-1]

    yield start_server
    for server in servers:
        server.close()


@pytest.fixture
def impatient(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs give up soon on servers that answer nothing."""
    monkeypatch.setattr(openai_, "RETRIES", Retries(tries=4, first_wait=0.01, longest_wait=0.05, patience=0.5))
