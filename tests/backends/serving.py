"""What the checks on real components share: commands as a user types them, and vLLM as a user would start it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = "from pfcvr.cli import data_main; data_main()"
# A seeded request whose prompt is computed in pieces ends the engine on CPUs: torch's CPU generator cannot step back.
SERVER_ARGUMENTS = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "16"]
SERVER_ARGUMENTS += ["--no-enable-chunked-prefill"]
SECONDS_TO_START = 400


@dataclass
class Server:
    """vLLM serving one model on loopback, as a user would start it."""

    python: str
    model: Path
    port: int
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    base_url: str = field(init=False)

    def __post_init__(self) -> None:
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        options = ["--model", str(self.model), "--host", "127.0.0.1", "--port", str(self.port), *SERVER_ARGUMENTS]
        options += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, "-m", "vllm.entrypoints.openai.api_server", *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + SECONDS_TO_START
        while not self.is_healthy():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"not ready after {SECONDS_TO_START} s"
            time.sleep(0.5)

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """At once, with its engine."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def metric(self, name: str) -> float:
        """The sum of a counter of vLLM's own over all its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            rows = [line for line in answer.read().decode().splitlines() if line.startswith(f"vllm:{name}{{")]
        return sum(float(row.rpartition(" ")[2]) for row in rows)


def data_command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *map(str, arguments)]


def run_data(*arguments: object, code: int = 0) -> dict[str, Any]:
    """What ``pfcvr-data ... --json`` prints."""
    done = subprocess.run(data_command(*arguments, "--json"), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
