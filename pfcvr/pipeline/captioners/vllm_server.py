"""A vLLM server of our own: started on a free loopback port, watched, restarted a few times, ended with us."""

import http.client
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pfcvr.errors import BackendError, StageStopped
from pfcvr.pipeline.child_process import ChildProcess, last_line

HOST = "127.0.0.1"
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_LINES = 10.0
# Weights of a hundred gigabytes come from a slow disk, and the first start compiles kernels.
SECONDS_TO_START = 3600.0
SECONDS_PER_LOOK = 5.0
RESTARTS = 3
# "vllm serve" can run several API processes but finds itself only as the distribution "vllm"; builds that carry
# another name, such as the one for CPUs, have the older entry point.
PROBE = """
import importlib.metadata, importlib.util, sys
if importlib.util.find_spec("vllm") is None: sys.exit(3)
try: print("serve", importlib.metadata.version("vllm"))
except importlib.metadata.PackageNotFoundError: print("api_server")
"""
ENTRIES = {
    "serve": ["vllm.entrypoints.cli.main", "serve"],
    "api_server": ["vllm.entrypoints.openai.api_server", "--model"],
}
# Later arguments win, so --server-args can replace each of these.
DEFAULT_ARGUMENTS = (
    "--limit-mm-per-prompt", '{"image": 1, "video": 0}',
    "--max-model-len", "8192",  # ours: a model's own may be 262,144, more memory than a card has
    "--max-num-seqs", "256",  # ours: the default differs between releases and cards, up to 1,024
    "--disable-uvicorn-access-log",
)  # fmt: skip


@dataclass(frozen=True)
class ServerPlan:
    """What one server is started with; ``devices`` is its share of the GPUs, None where there is nothing to share."""

    model: str
    python: str
    arguments: tuple[str, ...]
    log: Path
    devices: tuple[str, ...] | None = None
    name: str = "server"


@dataclass
class _State:
    process: ChildProcess
    port: int
    starts: int = 1
    told: float = field(default_factory=time.monotonic)


class VllmServer:
    """One server process. ``base_url`` is valid after ``start``; threads may call every method at once."""

    def __init__(self, plan: ServerPlan) -> None:
        self._plan = plan
        self._entry = entry_point(plan.python)
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._state: _State | None = None

    @property
    def base_url(self) -> str:
        assert self._state is not None, "the server was not started"
        return f"http://{HOST}:{self._state.port}/v1"

    @property
    def starts(self) -> int:
        """How often the server was started so far; a restart may change ``base_url``."""
        return self._state.starts if self._state else 0

    def start(self) -> None:
        """Start the process and wait until it answers; raises BackendError with its last words when it does not."""
        with self._lock:
            if self._state is None:
                self._launch(starts=1)
                self._wait_until_ready()

    def ensure_alive(self) -> bool:
        """Restart the server if it has ended; whether it had. Raises StageStopped after RESTARTS restarts."""
        with self._lock:
            state = self._state
            if state is None or self._given_up.is_set():
                raise StageStopped(f"{self._plan.name}: stopped; run the same command to continue")
            if state.process.ended() is None:
                return False
            why = self._last_words(state.process)
            if state.starts > RESTARTS:
                raise StageStopped(
                    f"{self._plan.name}: ended {state.starts} times ({why}); look at {self._plan.log}, mend the cause "
                    "and run the same command to continue"
                )
            self._say(f"ended ({why}), started again")
            state.process.stop()
            self._launch(state.starts + 1)
            self._wait_until_ready()
            return True

    def give_up(self) -> None:
        """Make every thread that waits for this server stop waiting."""
        self._given_up.set()

    def stop(self) -> None:
        """End the server; the process is gone when this returns."""
        self._given_up.set()
        with self._lock:
            if self._state is not None:
                self._state.process.stop()

    def _launch(self, starts: int) -> None:
        plan, port = self._plan, free_port()
        own = ["--host", HOST, "--port", str(port)]
        command = [plan.python, "-m", *self._entry, plan.model, *own, *DEFAULT_ARGUMENTS, *plan.arguments]
        self._state = _State(ChildProcess(command, plan.log, _environment(plan.devices)), port, starts)

    def _wait_until_ready(self) -> None:
        state = self._state
        assert state is not None
        began = time.monotonic()
        while not is_healthy(state.port):
            waited = time.monotonic() - began
            if state.process.ended() is not None:
                why = self._last_words(state.process)
                raise self._cannot_start(f"ended before it was ready ({why})")
            if waited > SECONDS_TO_START:
                raise self._cannot_start(f"is not ready after {SECONDS_TO_START:.0f} s")
            if time.monotonic() - state.told > SECONDS_BETWEEN_LINES:
                state.told = time.monotonic()
                self._say(f"loading {self._plan.model}, {waited:.0f} s so far")
            if self._given_up.wait(SECONDS_BETWEEN_LOOKS):
                raise StageStopped(f"{self._plan.name}: stopped while loading; run the same command to continue")

    def _cannot_start(self, what: str) -> BackendError:
        return BackendError(
            f"{self._plan.name}: {what}; look at {self._plan.log}, correct --model or --server-args and run the same "
            "command again"
        )

    def _last_words(self, process: ChildProcess) -> str:
        code = process.ended()
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        words = last_error(self._plan.log)
        return f"{how}: {words}" if words else how

    def _say(self, text: str) -> None:
        print(f"{self._plan.name}: {text}", file=sys.stderr, flush=True)


def entry_point(python: str) -> list[str]:
    """The module of vLLM that ``python`` can start a server with, and what stands before the model's name.

    Raises BackendError when there is no such interpreter, or it has no vLLM.
    """
    advice = "give --python the interpreter of an environment where vllm is installed"
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BackendError(f"{python}: cannot be run ({(error.strerror or '').lower()}); {advice}") from None
    kind = done.stdout.split()[:1]
    if done.returncode != 0 or not kind or kind[0] not in ENTRIES:
        raise BackendError(f"captioner 'vllm' needs the package 'vllm', which {python} does not have; {advice}")
    return ENTRIES[kind[0]]


def last_error(log: Path) -> str:
    """The last line of the log that names an error, or else the last line."""
    return last_line(log, containing=("Error", "error:")) or last_line(log)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_healthy(port: int) -> bool:
    """Whether a server there answers GET /health with 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=SECONDS_PER_LOOK)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def shares(devices: Sequence[str], replicas: int) -> list[tuple[str, ...] | None]:
    """``devices`` dealt to ``replicas`` servers, the same number each; None for all where there is nothing to deal.

    Raises BackendError when there are fewer devices than replicas.
    """
    if not devices or replicas == 1:
        return [None] * replicas
    each = len(devices) // replicas
    if each == 0:
        raise BackendError(
            f"captioner 'vllm': {replicas} replicas on {len(devices)} GPUs; give --replicas {len(devices)} or fewer"
        )
    return [tuple(devices[index * each : (index + 1) * each]) for index in range(replicas)]


def visible_devices() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, or all that nvidia-smi lists, or none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()


def split_arguments(text: str) -> tuple[str, ...]:
    """Server options as one would type them in a shell."""
    return tuple(shlex.split(text))


def _environment(devices: tuple[str, ...] | None) -> Mapping[str, str]:
    """Ours without the key of a paid service, which a local server has no use for."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    return environment if devices is None else environment | {"CUDA_VISIBLE_DEVICES": ",".join(devices)}
