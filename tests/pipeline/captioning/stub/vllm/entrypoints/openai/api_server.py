"""A server with the command line and routes of vLLM's that knows one sentence, and can be told to fail.

STUB_FOLDER gets one JSON line a start (``starts.jsonl``), one a request (``requests.jsonl``) and one a look at its
health (``health.jsonl``). STUB_LOADING: seconds before it is healthy. STUB_DIES_AFTER: requests that a process
answers before it ends; STUB_LAST_WORDS: a file with what it says then; STUB_HANGS_AFTER: requests that the first
process answers before it answers nothing any more; STUB_REFUSES: it never starts.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SENTENCE = (
    "A white sedan with dark tinted windows stands on black wheels with five thin silver spokes. The grille has three "
    "chrome bars between two round headlights, the roof carries a short antenna, both mirrors are white, and the rear "
    "door shows a long scratch above a plain bumper."
)
FOLDER = Path(os.environ["STUB_FOLDER"])
LOCK = threading.Lock()
IS_FIRST = not (FOLDER / "starts.jsonl").exists()
HANGS_AFTER = float(os.environ.get("STUB_HANGS_AFTER", "inf")) if IS_FIRST else float("inf")
NOT_HUNG = threading.Event()
NOT_HUNG.set()


def note(name: str, **values: object) -> None:
    with LOCK, (FOLDER / name).open("a") as file:
        file.write(json.dumps(values) + "\n")


def open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    return [os.readlink(folder / name) for name in os.listdir(folder) if os.path.islink(folder / name)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answered = 0

    def do_GET(self) -> None:
        NOT_HUNG.wait()
        if self.path == "/health":
            note("health.jsonl", pid=os.getpid())
        self.reply({"data": [{"id": ARGUMENTS.served_model_name}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with LOCK:
            Handler.answered += 1
            number = Handler.answered
        if number > HANGS_AFTER:
            NOT_HUNG.clear()
        NOT_HUNG.wait()
        limit = int(os.environ.get("STUB_DIES_AFTER", "0"))
        if limit and number > limit:
            words = os.environ.get("STUB_LAST_WORDS")
            print(Path(words).read_text() if words else "RuntimeError: the card is out of memory", flush=True)
            os._exit(7)
        note("requests.jsonl", pid=os.getpid(), image=json.dumps(body["messages"])[-2000:])
        message = {"role": "assistant", "content": SENTENCE}
        usage = {"prompt_tokens": 2000, "completion_tokens": 60}
        self.reply(
            {
                "model": ARGUMENTS.served_model_name,
                "choices": [{"message": message, "finish_reason": "stop"}],
                "usage": usage,
            }
        )

    def reply(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


parser = argparse.ArgumentParser()
for option in (
    "--model",
    "--served-model-name",
    "--host",
    "--structured-outputs-config",
    "--limit-mm-per-prompt",
    "--max-model-len",
):
    parser.add_argument(option)
parser.add_argument("--port", type=int)
parser.add_argument("--max-num-seqs", type=int)
parser.add_argument("--disable-uvicorn-access-log", action="store_true")
ARGUMENTS = parser.parse_args()
if "STUB_REFUSES" in os.environ:
    print("ValueError: no such model")
    print("(exiting)")
    sys.exit(3)
engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
note(
    "starts.jsonl",
    pid=os.getpid(),
    engine=engine.pid,
    arguments=vars(ARGUMENTS),
    devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    has_key="OPENAI_API_KEY" in os.environ,
    files=open_files(),
)
time.sleep(float(os.environ.get("STUB_LOADING", "0")))
ThreadingHTTPServer((ARGUMENTS.host, ARGUMENTS.port), Handler).serve_forever()
