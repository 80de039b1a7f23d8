"""Real components in environments of their own, and tiny weights for them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from backends.serving import Server, run_data
from tiny_models.qwen3_vl import make_qwen3_vl

ROOT = Path(__file__).resolve().parent.parent.parent


def environment(name: str) -> str:
    """The interpreter of an environment; one that cannot be built fails the test."""
    command = [sys.executable, str(ROOT / "scripts" / "environments.py"), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def vllm_python() -> str:
    return environment("vllm")


@pytest.fixture(scope="session")
def groundingdino_python() -> str:
    return environment("groundingdino")


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
    """No component asks the network for anything, and vLLM takes little memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_NO_USAGE_STATS", "1")
        patch.delenv("OPENAI_API_KEY", raising=False)
        yield


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl(tmp_path_factory.mktemp("models") / "qwen3-vl")


@pytest.fixture(scope="session")
def prompt() -> Path:
    """A prompt whose schema makes good captions of what random weights say."""
    return Path(__file__).with_name("bound.toml")


@pytest.fixture(scope="module")
def server(vllm_python: str, tiny_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from pfcvr.pipeline.captioners.vllm_server import free_port

    one = Server(vllm_python, tiny_qwen, free_port(), tmp_path_factory.mktemp("server") / "vllm.log")
    one.start()
    yield one
    one.kill()


@pytest.fixture(scope="session")
def vehicles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 rendered images of 25 vehicles."""
    out = tmp_path_factory.mktemp("source") / "vehicles"
    run_data("synth", out, "--identities", 25, "--images-per-identity", 2, "--size", 96)
    return out


@pytest.fixture
def imported(vehicles: Path, tmp_path: Path) -> Path:
    """A workspace with the 50 images."""
    workspace = tmp_path / "work"
    run_data("import", vehicles, "-w", workspace)
    return workspace


@pytest.fixture(scope="session")
def original_groundingdino(groundingdino_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of a random ``checkpoint`` and a tiny ``bert``."""
    folder = tmp_path_factory.mktemp("groundingdino")
    maker = ROOT / "tests" / "tiny_models" / "groundingdino_original.py"
    done = subprocess.run([groundingdino_python, maker, folder], capture_output=True, text=True, check=True)
    paths: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return paths
