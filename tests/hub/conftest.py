"""A loopback Hub, a process in which the real clients talk to it, and workspaces to publish."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hub.hub_repositories import ACCOUNTS, OWNER_TOKEN
from hub.loopback_hub import LoopbackHub, loopback_hub

from pfcvr.cli import data_app, run

CLIENT = Path(__file__).parent / "client.py"


@dataclass(frozen=True)
class Outcome:
    """How a program ended, and what it wrote; of JSON, what it says."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        assert self.code == 0, self.out + self.err
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def sentence(self) -> str:
        """The error that was told."""
        assert self.code == 1, self.out + self.err
        return str(json.loads(self.out)["error"]["message"])


Program = Callable[..., Outcome]


@pytest.fixture(scope="session")
def _server() -> Iterator[LoopbackHub]:
    with loopback_hub() as hub:
        yield hub


@pytest.fixture
def hub(_server: LoopbackHub) -> LoopbackHub:
    """The Hub, empty."""
    _server.forget()
    return _server


def environment_of_client(hub: LoopbackHub, home: Path) -> dict[str, str]:
    """In which the Hub's clients talk to ``hub`` and keep what they download below ``home``."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def _client(_server: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    home = tmp_path_factory.mktemp("hub-client")
    environment = environment_of_client(_server, home / "home")
    log = home / "stderr.txt"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, str(CLIENT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        ) as process,
    ):
        yield process, log
        # Not by the end of its input: loading processes that tests fork hold copies of the pipe.
        process.kill()


@pytest.fixture(scope="session")
def run_in_client(_client: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Runs ``pfcvr-data`` or ``pfcvr`` with ``--json`` and the owner's token; no token may show in what it prints."""
    process, log = _client
    elsewhere = tmp_path_factory.mktemp("folder")

    def call(
        name: str, *arguments: object, token: str | None = OWNER_TOKEN, folder: Path = elsewhere, as_json: bool = True
    ) -> Outcome:
        asked = {
            "program": name,
            "arguments": [*map(str, arguments), *(["--json"] if as_json else [])],
            "environment": {"HF_TOKEN": token} if token else {},
            "folder": str(folder),
        }
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, log.read_text()
        outcome = Outcome(**json.loads(answer))
        written = outcome.out + outcome.err + log.read_text()
        assert not any(secret in written for secret in (*ACCOUNTS, token) if secret)
        return outcome

    return call


@pytest.fixture
def program(run_in_client: Program, tmp_path: Path) -> Iterator[Program]:
    """The same in the test's own folder, where no file may hold a token either."""
    yield partial(run_in_client, folder=tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in ACCOUNTS), path


@pytest.fixture(scope="session")
def _workspaces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``open`` and ``closed``: finished workspaces of rendered vehicles; the terms of ``closed`` keep its images."""
    root = tmp_path_factory.mktemp("workspaces")
    for name, redistribute in (("open", True), ("closed", False)):
        source, workspace = root / f"{name}-source", str(root / name)
        data("synth", source, "--identities", 9, "--images-per-identity", 2, "--size", 48)
        described = json.loads((source / "source.json").read_bytes())
        if not redistribute:
            described |= {"licence": "research only", "description": "Not to be <b>handed on</b>."}
        (source / "source.json").write_text(json.dumps({**described, "redistribute_images": redistribute}))
        data("import", source, "-w", workspace)
        data("caption", "-w", workspace, "--captioner", "import", "--captions", source / "captions.jsonl")
        data("parts", "-w", workspace, "--annotations", source / "parts.coco.json", "--grid", "4x4")
        data("split", "-w", workspace, "--val", 0.2)
    return root


def data(*arguments: object) -> None:
    """Run a command of ``pfcvr-data`` that must succeed."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(data_app, "pfcvr-data", [*map(str, arguments), "--json"]) == 0, out.getvalue()


@pytest.fixture(scope="session")
def _ready(run_in_client: Program, _workspaces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(shutil.copytree(_workspaces / "closed", tmp_path_factory.mktemp("ready") / "closed"))
    assert run_in_client("pfcvr-data", "push", "-w", root, "lab/ready", "--dry-run").code == 0
    return root


@pytest.fixture
def ready(_ready: Path, tmp_path: Path) -> Path:
    """A workspace whose publication as ``lab/ready`` is composed and not yet sent."""
    return Path(shutil.copytree(_ready, tmp_path / "ready"))


@pytest.fixture
def open_set(_workspaces: Path, tmp_path: Path) -> Path:
    """A finished workspace whose source gives its images away."""
    return Path(shutil.copytree(_workspaces / "open", tmp_path / "open"))


@pytest.fixture
def closed_set(_workspaces: Path, tmp_path: Path) -> Path:
    """A finished workspace whose source keeps its images."""
    return Path(shutil.copytree(_workspaces / "closed", tmp_path / "closed"))
