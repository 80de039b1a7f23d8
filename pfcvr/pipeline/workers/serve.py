"""A program in another Python environment that answers us in JSON lines, for packages that cannot live beside ours.

The worker's side of the protocol, of which ``client`` is ours. Standard library only, Python 3.10 or newer: this
file runs in environments that hold none of our packages. One line each way, in turn:

    to the worker   {"protocol": 1, "settings": {...}}       once
    back            {"protocol": 1, "ready": {...}}          or {"error": {"kind": ..., "message": ...}}, then it ends
    to the worker   {"images": ["/path/of/one.jpg", ...]}    any number of times
    back            {"results": [{...} or {"reason": ..., "detail": ...}, ...]}

A result with ``reason`` means that this one image cannot be used. The end of standard input ends the worker.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

PROTOCOL = 1
Answers = Callable[[list[str]], list[dict[str, Any]]]


class WorkerError(Exception):
    """The worker cannot start: ``kind`` is ``missing``, ``weights`` or ``settings``, the message one sentence."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def main(module: str) -> None:
    """Serve the worker ``module``, whose ``prepare(settings)`` returns what answers a list of image paths."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # What a library prints must not get between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    greeting = json.loads(sys.stdin.readline())
    try:
        if greeting["protocol"] != PROTOCOL:
            raise WorkerError("settings", f"speaks protocol {PROTOCOL}, was greeted with {greeting['protocol']}")
        answer: Answers = importlib.import_module(module).prepare(greeting["settings"])
    except WorkerError as error:
        send({"error": {"kind": error.kind, "message": str(error)}})
        return
    send({"protocol": PROTOCOL, "ready": {"python": sys.version.split()[0]}})
    for line in sys.stdin:
        send({"results": answer(json.loads(line)["images"])})
