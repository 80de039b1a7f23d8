"""Build, and find again, the Python environments of components that cannot share one with pfcvr.

``python scripts/environments.py vllm`` prints the interpreter of the environment that ``environments/vllm.txt``
describes, building it where there is none or where it is broken. An environment lies beside the clone, in
``../pfcvr-environments`` or where PFCVR_ENVIRONMENTS says, under a name that holds the hash of its requirements.
It is built under a temporary name and renamed when complete, so a build that was cut short is never taken for whole.
After the rename only ``bin/python -m ...`` is to be used: the scripts beside it name the folder of the build.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "environments"
PROBES = {"vllm": "import vllm, torchvision", "groundingdino": "import groundingdino.util.inference"}
PYTHON_VERSION = "3.11"  # vLLM's CPU build has wheels for few versions; one for all keeps the pins true


class EnvironmentFailure(Exception):
    """An environment cannot be built; the message is one sentence."""


def environment_python(name: str) -> Path:
    """The interpreter of the environment ``name``, which is built first where it is absent or broken."""
    folder = environments_root() / f"{name}-{requirements_hash(name)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / f".{name}.lock"):
        if not works(folder, name):
            build(folder, name)
    return folder / "bin" / "python"


def environments_root() -> Path:
    named = os.environ.get("PFCVR_ENVIRONMENTS")
    return Path(named).resolve() if named else ROOT.parent / "pfcvr-environments"


def requirements_hash(name: str) -> str:
    """Changes with the requirements and with the Python that runs them."""
    text = (REQUIREMENTS / f"{name}.txt").read_bytes() + PYTHON_VERSION.encode()
    return hashlib.sha256(text).hexdigest()[:12]


def works(folder: Path, name: str) -> bool:
    """Whether the environment is there and its main package can be imported."""
    python = folder / "bin" / "python"
    if not python.exists():
        return False
    return subprocess.run([python, "-c", PROBES[name]], capture_output=True, check=False).returncode == 0


def build(folder: Path, name: str) -> None:
    """Make the environment beside its place, prove that it works, and rename it."""
    started = time.monotonic()
    beside = folder.with_name(f".{folder.name}.partial")
    for remains in (beside, folder):
        shutil.rmtree(remains, ignore_errors=True)
    say(f"building the environment '{name}' (several GB, some minutes)")
    run([base_python(), "-m", "venv", str(beside)], name)
    # Every package is pinned, so nothing is left to resolve; a cache would keep a second copy of several GB.
    pip = [str(beside / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--no-cache-dir", "--no-deps", "-r", str(REQUIREMENTS / f"{name}.txt")], name)
    if not works(beside, name):
        raise EnvironmentFailure(
            f"environment '{name}': installed, but '{PROBES[name]}' fails in {beside}; run it there to see why"
        )
    beside.rename(folder)
    say(f"environment '{name}' is ready after {(time.monotonic() - started) / 60:.1f} minutes")


def base_python() -> str:
    """A Python of the version that the requirements are pinned for."""
    if sys.version_info[:2] == tuple(map(int, PYTHON_VERSION.split("."))):
        return sys.executable
    found = shutil.which(f"python{PYTHON_VERSION}")
    if found is None:
        raise EnvironmentFailure(
            f"no python{PYTHON_VERSION} on the path, for which the environments are pinned; add it"
        )
    return found


def run(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise EnvironmentFailure(f"environment '{name}' cannot be built: {why}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One builder at a time; the lock dies with its holder."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=sorted(PROBES), metavar="NAME", help=", ".join(sorted(PROBES)))
    try:
        for name in parser.parse_args().names:
            print(environment_python(name))
    except EnvironmentFailure as failure:
        say(f"error: {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
