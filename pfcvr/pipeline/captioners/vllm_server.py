"""A vLLM server of our own: started on a free loopback port, watched, restarted a few times, ended with us."""

import http.client
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pfcvr.errors import BackendError, StageStopped
from pfcvr.pipeline.child_process import ChildProcess

HOST = "127.0.0.1"
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_LINES = 10.0
# Weights of a hundred gigabytes come from a slow disk, and the first start compiles kernels.
SECONDS_TO_START = 3600.0
SECONDS_PER_LOOK = 5.0
ERROR_MARKS = ("Error: ", "Exception: ", "error: ")
# The server process only passes on that its engine ended; warnings name errors that may come.
NO_CAUSES = ("root cause", "WARNING")
LOG_PREFIX = re.compile(r"^(\([^()]*\) )?ERROR [-\d]+ [:\d]+ \[[^\]]*\]\s*")
# What ends the engine again and again, and what helps.
CURES = {
    "CPU Generator does not use offset": "this vLLM cannot compute a seeded prompt in pieces on a CPU, add "
    "--server-args '--no-enable-chunked-prefill'",
}
RESTARTS = 3
# Ends that lie so far apart are no sign of one cause; in days of work there are some.
SECONDS_OF_GOOD_SERVICE = 3600.0
SECONDS_BETWEEN_CHECKS = 10.0
SECONDS_OF_SILENCE = 180.0  # a busy server tells its health late, one that hangs never
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
    # A model that may put white space between the fields of its answer may put nothing else.
    "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
)  # fmt: skip


@dataclass(frozen=True)
class ServerPlan:
    """What one server is started with; ``devices`` is its share of the GPUs, None where there is nothing to share.

    ``model`` is a name on the Hub or a path, ``served_name`` what requests call it.
    """

    model: str
    served_name: str
    python: str
    arguments: tuple[str, ...]
    log: Path
    devices: tuple[str, ...] | None = None
    name: str = "vLLM"


class VllmServer:
    """One server, on the same loopback port for as long as this object lives.

    Once it was ready, a thread watches it: a process that ends, or no longer tells its health, is started again while
    requests wait, RESTARTS times without SECONDS_OF_GOOD_SERVICE between; then, or at once where it would end again,
    ``failed`` is called with the StageStopped that tells why. When ``ending`` is set nobody waits or watches any more.
    Raises BackendError when the interpreter has no vLLM.
    """

    def __init__(self, plan: ServerPlan, failed: Callable[[StageStopped], None], ending: threading.Event) -> None:
        self._plan, self._failed, self._ending = plan, failed, ending
        self._entry = entry_point(plan.python)
        self._port = free_port()
        self._process: ChildProcess | None = None
        self._watcher = threading.Thread(target=self._watch, name=plan.name, daemon=True)
        self.base_url = f"http://{HOST}:{self._port}/v1"

    def launch(self) -> None:
        """Start the process without waiting for it."""
        plan = self._plan
        own = ["--host", HOST, "--port", str(self._port), "--served-model-name", plan.served_name]
        command = [plan.python, "-m", *self._entry, plan.model, *own, *DEFAULT_ARGUMENTS, *plan.arguments]
        self._process = ChildProcess(command, plan.log, _environment(plan.devices))

    def wait_until_ready(self) -> None:
        """Return once the server answers; from then on it is watched.

        Raises BackendError with its last words when it ends before, StageStopped when ``ending`` is set.
        """
        self._wait(self._launched())
        self._watcher.start()

    def stop(self) -> None:
        """End the server, after ``ending`` was set; the process is gone when this returns."""
        if self._watcher.is_alive():
            self._watcher.join()
        if self._process is not None:
            self._process.stop()

    def _launched(self) -> ChildProcess:
        assert self._process is not None, "launch comes first"
        return self._process

    def _watch(self) -> None:
        restarts, service = 0, _Service(self._port, well_at=time.monotonic())
        while not self._ending.wait(SECONDS_BETWEEN_LOOKS):
            process = self._launched()
            if process.ended() is not None:
                why = self._last_words(process)
            elif service.is_silent():
                why = f"no answer for {SECONDS_OF_SILENCE:.0f} s"
            else:
                continue
            cure = next((cure for mark, cure in CURES.items() if mark in why), None)
            if cure is not None:
                self._failed(self._stopped(f"ended with {why}: {cure}"))
                return
            if service.was_good():
                restarts = 0
            if restarts == RESTARTS:
                self._failed(self._stopped(f"ended {restarts + 1} times, the last time with {why}"))
                return
            restarts += 1
            self._say(f"ended with {why}; start {restarts + 1} of at most {RESTARTS + 1}")
            process.stop()
            self.launch()
            service = _Service(self._port)

    def _wait(self, process: ChildProcess) -> None:
        began = told = time.monotonic()
        while not is_healthy(self._port):
            now = time.monotonic()
            if process.ended() is not None:
                raise self._cannot_start(f"ended before it was ready, with {self._last_words(process)}")
            if now - began > SECONDS_TO_START:
                raise self._cannot_start(f"is not ready after {SECONDS_TO_START:.0f} s")
            if now - told > SECONDS_BETWEEN_LINES:
                told = now
                self._say(f"loading {self._plan.model}, {now - began:.0f} s so far")
            if self._ending.wait(SECONDS_BETWEEN_LOOKS):
                raise self._stopped("was stopped while it loaded")

    def _cannot_start(self, what: str) -> BackendError:
        return BackendError(
            f"{self._plan.name} {what}; look at {self._plan.log}, correct --model or --server-args and run the same "
            "command again"
        )

    def _stopped(self, what: str) -> StageStopped:
        return StageStopped(f"{self._plan.name} {what}; look at {self._plan.log} and run the same command to continue")

    def _last_words(self, process: ChildProcess) -> str:
        code = process.ended()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        words = LOG_PREFIX.sub("", process.last_line(ERROR_MARKS, NO_CAUSES) or process.last_line())
        return f"{how} ({words})" if words else how

    def _say(self, text: str) -> None:
        print(f"{self._plan.name}: {text}", file=sys.stderr, flush=True)


class _Service:
    """How a server does since its last start, by its answers to GET /health now and then.

    ``well_at`` is when it was first well, on the monotonic clock, where that is known.
    """

    def __init__(self, port: int, well_at: float = float("inf")) -> None:
        self._port = port
        self._next_check = 0.0
        self._first_well = self._last_well = well_at

    def is_silent(self) -> bool:
        """Whether a server that was ready has told its health no more for SECONDS_OF_SILENCE."""
        if time.monotonic() >= self._next_check:
            if is_healthy(self._port):
                self._last_well = time.monotonic()
                self._first_well = min(self._first_well, self._last_well)
            self._next_check = time.monotonic() + SECONDS_BETWEEN_CHECKS
        return time.monotonic() - self._last_well > SECONDS_OF_SILENCE

    def was_good(self) -> bool:
        """Whether it was well for SECONDS_OF_GOOD_SERVICE."""
        return self._last_well - self._first_well >= SECONDS_OF_GOOD_SERVICE


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
        raise BackendError(
            f"captioner 'vllm' needs the package 'vllm', which {python} does not have; "
            f"run: {shlex.quote(python)} -m pip install vllm, or {advice}"
        )
    return ENTRIES[kind[0]]


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


def _environment(devices: tuple[str, ...] | None) -> Mapping[str, str]:
    """Ours without the key of a paid service, which a local server has no use for."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    return environment if devices is None else environment | {"CUDA_VISIBLE_DEVICES": ",".join(devices)}
