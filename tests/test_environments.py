"""Environments beside the clone: built once, built again when broken or when their pins change, never half."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "environments.py"


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with one small environment to build, ``bare``, that needs no package."""
    spec = importlib.util.spec_from_file_location("environments", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins" / "bare.txt").write_text("# nothing\n")
    monkeypatch.setattr(module, "REQUIREMENTS", tmp_path / "pins")
    monkeypatch.setattr(module, "PROBES", {"bare": "import json"})
    monkeypatch.setattr(module, "PYTHON_VERSION", ".".join(map(str, sys.version_info[:2])))
    monkeypatch.setenv("PFCVR_ENVIRONMENTS", str(tmp_path / "built"))
    return module


def test_an_environment_is_built_once_and_again_when_it_is_broken(environments: ModuleType, tmp_path: Path) -> None:
    half_built = tmp_path / "built" / f".bare-{environments.requirements_hash('bare')}.partial"
    half_built.mkdir(parents=True)
    python = environments.environment_python("bare")
    assert not half_built.exists()
    made = python.parent.parent.stat().st_ino
    assert environments.environment_python("bare") == python
    assert python.parent.parent.stat().st_ino == made
    python.unlink()
    assert environments.environment_python("bare") == python
    assert environments.works(python.parent.parent, "bare")
    (tmp_path / "pins" / "bare.txt").write_text("# other pins\n")
    assert environments.requirements_hash("bare") not in str(python)


def test_an_environment_that_cannot_be_built_is_a_failure_and_leaves_none(
    environments: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pins" / "bare.txt").write_text("./no-such-wheel.whl\n")
    monkeypatch.setattr(sys, "argv", ["environments.py", "bare"])
    assert environments.main() == 1
    assert "error: environment 'bare' cannot be built: " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "built").iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize("path", sorted((SCRIPT.parent.parent / "environments").glob("*.txt")), ids=lambda p: p.stem)
def test_every_requirement_is_pinned_and_names_no_address(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) > 30
    assert all("==" in line for line in lines)
    assert not any("/" in line or "@" in line for line in lines)
