"""Our side of a worker in another Python environment: start it there, ask it, say in one sentence why it is gone."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pfcvr
from pfcvr.errors import BackendError, CheckpointError, StageStopped, UsageError
from pfcvr.pipeline.child_process import ChildProcess
from pfcvr.pipeline.workers.serve import PROTOCOL

ERRORS = {"missing": BackendError, "weights": CheckpointError, "settings": UsageError}
OLDEST_PYTHON = (3, 10)
PROBE = "import sys; print(*sys.version_info[:2])"
# Loads this very pfcvr, and nothing else of our environment, into the other interpreter.
BOOTSTRAP = """
import importlib.util, sys
sys.path[:] = [folder for folder in sys.path if folder]
folder, module = sys.argv[1:]
spec = importlib.util.spec_from_file_location("pfcvr", folder + "/__init__.py", submodule_search_locations=[folder])
package = sys.modules["pfcvr"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from pfcvr.pipeline.workers.serve import main
main(module)
"""


class WorkerEnded(StageStopped):
    """The worker ended while it was asked; ``how`` says by what."""

    def __init__(self, how: str) -> None:
        super().__init__(f"{how}; run the same command to continue")
        self.how = how


class Worker:
    """The worker ``module`` run by the interpreter ``python``; what it says on standard error goes to ``log``.

    Raises BackendError when the interpreter cannot be run. Not to be used by two threads at once, but for ``close``.
    """

    def __init__(self, python: str, module: str, settings: dict[str, Any], log: Path) -> None:
        self._name = module.rpartition(".")[2]
        self._log = log
        check_python(python)
        folder = str(Path(pfcvr.__file__).parent)
        self._settings = settings
        self._process = ChildProcess([python, "-c", BOOTSTRAP, folder, module], log, piped=True)

    def wait_until_ready(self) -> None:
        """Return once the worker has loaded what it needs.

        Raises BackendError when it lacks a package or ends, CheckpointError for weights and UsageError for settings
        that it does not take; it has ended then.
        """
        try:
            answer = self._exchange({"protocol": PROTOCOL, "settings": self._settings})
            if answer is None:
                raise BackendError(f"{self._ended()} before it was ready; look at {self._log}")
            if "error" in answer:
                raise ERRORS[answer["error"]["kind"]](answer["error"]["message"])
        except BaseException:
            self.close()
            raise

    def ask(self, images: Sequence[Path]) -> list[dict[str, Any]]:
        """One result for each image; raises WorkerEnded when the worker has ended."""
        answer = self._exchange({"images": [str(path.resolve()) for path in images]})
        if answer is None:
            raise WorkerEnded(self._ended())
        results: list[dict[str, Any]] = answer["results"]
        return results

    def close(self) -> None:
        """End the worker; what another thread waits for then never comes, and is told as an ended worker."""
        self._process.stop()

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to ``message``; None when the worker is gone."""
        if self._process.ended() is not None:
            return None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._process.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return answer

    def _ended(self) -> str:
        self._process.stop()
        code = self._process.ended()
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        words = self._process.last_line()
        return f"worker '{self._name}' {how}" + (f" ({words})" if words else "")


def check_python(python: str) -> None:
    """Raise BackendError unless ``python`` is an interpreter that a worker can run in."""
    oldest = ".".join(map(str, OLDEST_PYTHON))
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BackendError(f"{python}: cannot be run ({reason}); give --python an interpreter") from None
    version = tuple(int(number) for number in done.stdout.split() if number.isdigit())
    if done.returncode != 0 or version < OLDEST_PYTHON:
        raise BackendError(f"{python}: no Python of version {oldest} or newer; give --python another interpreter")
