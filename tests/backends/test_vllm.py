"""Captions by the real vLLM, built for CPUs, with a Qwen3-VL of half a million random parameters."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from backends.serving import SERVER_ARGUMENTS, Server, data_command, run_data

from pfcvr.records import Caption
from pfcvr.store import Workspace

pytestmark = [pytest.mark.backends, pytest.mark.timeout(900)]
SENTENCE = re.compile(r"A (white|red|blue|black) (sedan|SUV|minibus) with .* is seen from the (front|rear)\.")


def captions(workspace: Path) -> list[Caption]:
    return list(Workspace(workspace).records("caption", Caption))


def running_lines(workspace: Path) -> int:
    path = workspace / "caption" / "part-running.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def vision_tokens(workspace: Path) -> int:
    """By the model's own rule: a token for 32 x 32 pixels of what it is shown."""
    from pfcvr.config import ImageInputConfig
    from pfcvr.pipeline.captioners.image_input import fitted_size

    sizes = [fitted_size(image.width, image.height, ImageInputConfig()) for image in Workspace(workspace).images()]
    return sum(round(width / 32) * round(height / 32) for width, height in sizes)


def test_doctor_tells_what_a_real_server_does_well_and_what_not(server: Server, prompt: Path) -> None:
    arguments = ["doctor", "--base-url", server.base_url, "--model", server.model]
    report = run_data(*arguments, "--prompt", prompt)
    assert report["passed"], report
    # Under the shipped schema random weights fill every text to its end and beyond the budget.
    shipped = run_data(*arguments, code=1)
    assert {finding["question"]: finding["passed"] for finding in shipped["findings"]} == {
        "schema": True,
        "image": True,
        "stop": False,
    }


def test_fifty_images_are_captioned_by_fifty_requests_with_fifty_images(
    server: Server, imported: Path, prompt: Path
) -> None:
    names = ("request_success_total", "prompt_tokens_total", "mm_cache_queries_total")
    before = {name: server.metric(name) for name in names}
    command = ["caption", "-w", imported, "--captioner", "openai", "--base-url", server.base_url, "--prompt", prompt]
    summary = run_data(*command)
    assert (summary["kept"], summary["rejected"]) == (50, 0)
    requests, prompt_tokens, images = (server.metric(name) - before[name] for name in names)
    records = captions(imported)
    assert requests == images == len(records) == 50
    assert prompt_tokens == sum(record.origin.prompt_tokens or 0 for record in records)
    # What is left when the image tokens are taken away is the same text for every image.
    assert (prompt_tokens - vision_tokens(imported)) % 50 == 0
    assert prompt_tokens > vision_tokens(imported) > 50 * 200
    assert all(SENTENCE.fullmatch(text) for record in records for text in record.texts)
    assert len({record.texts for record in records}) > 5
    assert run_data(*command)["already_done"]
    assert server.metric(names[0]) - before[names[0]] == 50


def test_a_server_killed_in_the_run_costs_no_row_and_no_second_answer(
    server: Server, imported: Path, prompt: Path
) -> None:
    arguments = ["caption", "-w", imported, "--captioner", "openai", "--base-url", server.base_url, "--prompt", prompt]
    arguments += ["--model", server.model, "--seed", "7", "--concurrency", "1"]
    run = subprocess.Popen(data_command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while running_lines(imported) < 10:
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    server.kill()
    run.kill()
    run.communicate(timeout=60)
    answered = running_lines(imported)
    assert 10 <= answered < 50
    server.start()
    assert run_data(*arguments)["kept"] == 50
    # One answer may have come between the last line written and the end of the run: it is kept, not asked for again.
    assert 50 - answered - 1 <= server.metric("request_success_total") <= 50 - answered
    assert len({record.image_id for record in captions(imported)}) == 50


def test_own_servers_are_started_watched_and_ended(
    vllm_python: str, tiny_qwen: Path, imported: Path, prompt: Path
) -> None:
    arguments = ["caption", "-w", imported, "--captioner", "vllm", "--model", tiny_qwen, "--prompt", prompt]
    arguments += ["--python", vllm_python, "--server-args", " ".join(SERVER_ARGUMENTS), "--concurrency", "2"]
    others = server_processes(tiny_qwen)
    run = subprocess.Popen(
        data_command(*arguments, "--replicas", "2", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while running_lines(imported) < 5:
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    servers = server_processes(tiny_qwen) - others
    assert len(servers) == 2
    os.kill(min(servers), signal.SIGKILL)
    out, told = run.communicate(timeout=600)
    assert run.returncode == 0, told
    assert json.loads(out)["kept"] == 50
    records = captions(imported)
    assert all(SENTENCE.fullmatch(text) for record in records for text in record.texts)
    assert Counter(record.origin.captioner for record in records) == {"vllm": 50}
    assert server_processes(tiny_qwen) == others
    assert {path.name for path in (imported / "caption").glob("*.log")} == {"vllm-0.log", "vllm-1.log"}


def server_processes(model: Path) -> set[int]:
    """Servers of ``model`` by their command lines, but not the guardians that name them too."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[1:3] == [b"-m", b"vllm.entrypoints.openai.api_server"] and str(model).encode() in command:
            found.add(int(folder.name))
    return found


def test_a_model_that_is_not_there_is_one_sentence(vllm_python: str, imported: Path, tmp_path: Path) -> None:
    arguments = ["caption", "-w", imported, "--captioner", "vllm", "--model", tmp_path / "no-model"]
    error = run_data(*arguments, "--python", vllm_python, code=1)["error"]["message"]
    assert "ended before it was ready" in error
    assert "vllm-0.log" in error
    assert "--model" in error


def test_our_own_interpreter_has_no_vllm_and_says_so(imported: Path, tiny_qwen: Path) -> None:
    arguments = ["caption", "-w", imported, "--captioner", "vllm", "--model", tiny_qwen, "--python", sys.executable]
    assert "needs the package 'vllm'" in run_data(*arguments, code=1)["error"]["message"]
