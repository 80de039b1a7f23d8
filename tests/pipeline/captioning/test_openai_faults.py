"""Hundreds of images through a server that misbehaves at random; runs that are killed; disks that are full."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import fault_server as faults
import pytest

from pfcvr.errors import StageStopped
from pfcvr.stage import RunOptions


def test_nothing_is_lost_written_twice_or_asked_beyond_its_retries(pictures, start) -> None:
    captioning = pictures(600)
    troubles = faults.RandomTroubles()
    server = start(script=troubles)
    summary = captioning.run(server, concurrency=32)
    assert (summary.rows_in, summary.kept, summary.rejected) == (600, 600, 0)
    assert server.asked == troubles.requests_needed()
    assert sum(server.asked.values()) > 1000
    parts = captioning.workspace.folder("caption").glob("part-*.jsonl")
    lines = [line for path in parts for line in path.read_text().splitlines()]
    written = Counter(json.loads(line)["image_id"] for line in lines)
    assert set(written.values()) == {1}
    assert len(written) == 600


def test_sealed_bytes_depend_on_the_answers_alone(tmp_path, import_pictures, start) -> None:
    sealed = []
    for concurrency, troubles in ((1, 0), (24, 2)):
        captioning = import_pictures(tmp_path / str(concurrency), 40)
        server = start(script=lambda asked, n=troubles: faults.error(500) if asked.nth <= n else faults.answer())
        captioning.run(server, concurrency=concurrency)
        sealed.append(captioning.sealed_bytes()["part-00000.jsonl"])
    assert sealed[0] == sealed[1]


CHILD = """
from pathlib import Path
from pfcvr.config import CaptionConfig
from pfcvr.pipeline import caption
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace
workspace = Workspace(Path({workspace!r}))
image = {{"min_pixels": 1024, "max_pixels": 4096}}
config = CaptionConfig(captioner="openai", base_url={url!r}, model="tiny-vl", concurrency=8, image=image)
with workspace.lock():
    caption.run(workspace, config, RunOptions(quiet=True))
"""


def start_child(captioning, server, before: str = "") -> subprocess.Popen:
    script = before + textwrap.dedent(CHILD).format(workspace=str(captioning.workspace.root), url=server.url)
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)


def wait_for(server, answers: int) -> None:
    deadline = time.monotonic() + 60
    while server.calls < answers:
        assert time.monotonic() < deadline, "the run never came so far"
        time.sleep(0.01)


@pytest.mark.parametrize("answers", [1, 30, 90])
def test_a_run_killed_at_any_point_asks_about_no_answered_image_again(pictures, start, answers: int) -> None:
    captioning = pictures(100)
    server = start(script=lambda asked: faults.answer(delay=0.02))
    child = start_child(captioning, server)
    wait_for(server, answers)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    before = dict(server.asked)
    kept = captioning.kept_answers()
    assert captioning.run(server, model="tiny-vl", concurrency=8).kept == 100
    again = sum(server.asked.values()) - 100
    assert again <= 8, "more was asked again than was in flight"
    assert again == len(before) - kept, "an answer that was kept was asked for again"
    assert all(server.asked[image] <= 2 for image in before)


def test_ctrl_c_ends_a_run_at_once_and_the_next_one_continues(pictures, start) -> None:
    captioning = pictures(60)
    server = start(script=lambda asked: faults.answer(delay=0.01 if len(server.asked) <= 30 else 3600))
    child = start_child(captioning, server)
    wait_for(server, 35)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    server.script = lambda asked: faults.answer()
    assert captioning.run(server, model="tiny-vl").kept == 60
    assert sum(server.asked.values()) <= 60 + 8


def test_a_full_disk_stops_the_run_and_what_was_paid_for_stays(pictures, start) -> None:
    captioning = pictures(80)
    server = start()
    before = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({48 << 10}, {resource.RLIM_INFINITY}))
"""
    child = start_child(captioning, server, before)
    _, errors = child.communicate(timeout=60)
    assert "StageStopped" in errors
    assert "run the same command to continue" in errors
    kept = captioning.kept_answers()
    assert kept > 0
    asked = sum(server.asked.values())
    assert captioning.run(server, model="tiny-vl", concurrency=8).kept == 80
    assert sum(server.asked.values()) - asked == 80 - kept


MORTAL_SERVER = """
import os, sys, threading, time
from pathlib import Path
import fault_server as faults

port, culprit = int(sys.argv[1]), Path(sys.argv[2])
end = threading.Timer(0.2, os._exit, [1])

def script(asked):
    if not culprit.exists():
        culprit.write_text(asked.image)
    if asked.image == culprit.read_text() and end.ident is None:
        end.start()
    return answer()

def answer():
    return faults.answer(delay=0.05) if end.ident is None else faults.Behaviour(connection="reset")

server = faults.FaultServer(script=script)
server.probe = answer
server.die()
server.port = port
server.open()
time.sleep(3600)
"""


@contextmanager
def restarted_server(culprit: Path) -> Iterator[SimpleNamespace]:
    """A server in a process of its own that ends at the first picture it is asked about, and is started again.

    While it ends it still takes requests for a moment, and breaks them off.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", MORTAL_SERVER, str(port), str(culprit)]
    environment = {**os.environ, "PYTHONPATH": str(Path(faults.__file__).parent)}
    server = SimpleNamespace(url=f"http://127.0.0.1:{port}/v1", starts=1, wanted=True)
    server.process = subprocess.Popen(command, env=environment)

    def watch() -> None:
        while server.process.wait() is not None and server.wanted:
            server.starts += 1
            server.process = subprocess.Popen(command, env=environment)

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield server
    finally:
        server.wanted = False
        server.process.kill()
        watcher.join()


@pytest.mark.usefixtures("start")
def test_a_picture_that_ends_the_server_is_rejected_and_no_other(pictures, tmp_path) -> None:
    captioning = pictures(40)
    with restarted_server(tmp_path / "culprit") as server:
        summary = captioning.run(server, concurrency=16)
    assert (summary.kept, sum(summary.reasons.values())) == (39, 1)
    assert 3 <= server.starts <= 8


def test_a_run_that_mostly_fails_stops_itself_and_goes_on_with_the_reason(pictures, start) -> None:
    captioning = pictures(260)
    server = start(script=lambda asked: faults.error(400, "too wide"))
    with pytest.raises(StageStopped, match="200 of the last 200 rows were rejected for 'request_refused'"):
        captioning.run(server)
    server.script = lambda asked: faults.answer()
    assert captioning.run(server, RunOptions(quiet=True, retry="request_refused")).kept == 260
