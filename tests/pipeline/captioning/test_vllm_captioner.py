"""The captioner that starts its own vLLM servers, against a program that lives and dies as vLLM does."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from pfcvr.config import CaptionConfig, parse
from pfcvr.errors import BackendError, PfcvrError, SealedError, StageStopped, UsageError
from pfcvr.pipeline import caption
from pfcvr.pipeline.captioners import vllm_server
from pfcvr.pipeline.captioners.vllm_server import RESTARTS, entry_point, shares, visible_devices
from pfcvr.pipeline.weights import weights_sha256
from pfcvr.records import Caption
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

STUB = Path(__file__).parent / "stub"
QUIET = RunOptions(quiet=True)
OVERWRITE = RunOptions(quiet=True, overwrite=True)
PROGRAM = "from pfcvr.cli import data_main; data_main()"


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the stub the ``vllm`` of the servers' interpreter; returns the folder it writes to."""
    folder = tmp_path / "notes"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(STUB))
    monkeypatch.setenv("STUB_FOLDER", str(folder))
    return folder


@pytest.fixture
def workspace(small: Any) -> Workspace:
    small.add_images({"00001": 6, "00002": 6})
    opened: Workspace = small.workspace
    return opened


def config(model: str = "tiny", **values: Any) -> CaptionConfig:
    return CaptionConfig(captioner="vllm", model=model, prompt="vehicle-text", concurrency=2, **values)


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes(notes: Path) -> list[int]:
    return [start[who] for start in lines(notes, "starts.jsonl") for who in ("pid", "engine")]


def captioned(workspace: Workspace) -> set[str]:
    return {record.image_id for record in workspace.records("caption", Caption)}


def test_a_run_starts_a_server_captions_with_it_and_leaves_no_process(workspace: Workspace, notes: Path) -> None:
    summary = caption.run(workspace, config(), QUIET)
    assert (summary.kept, summary.rejected) == (12, 0)
    (start,) = lines(notes, "starts.jsonl")
    assert start["arguments"]["model"] == "tiny"
    assert start["arguments"]["host"] == "127.0.0.1"
    assert json.loads(start["arguments"]["limit_mm_per_prompt"]) == {"image": 1, "video": 0}
    assert len(lines(notes, "requests.jsonl")) == 12
    assert not any(is_running(pid) for pid in processes(notes))


def test_a_sealed_stage_needs_no_server(workspace: Workspace, notes: Path) -> None:
    caption.run(workspace, config(), QUIET)
    assert caption.run(workspace, config(), QUIET).already_done
    assert len(lines(notes, "starts.jsonl")) == 1


def test_weights_in_a_folder_are_known_by_what_they_hold_and_named_without_their_place(
    workspace: Workspace, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "w1" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    monkeypatch.chdir(tmp_path)
    caption.run(workspace, config("./w1"), QUIET)
    (start,) = lines(notes, "starts.jsonl")
    assert (start["arguments"]["model"], start["arguments"]["served_model_name"]) == ("./w1", "w1")
    origins = [record.origin for record in workspace.records("caption", Caption)]
    assert {origin.model for origin in origins} == {"w1"}
    assert {origin.revision for origin in origins} == {f"sha256:{weights_sha256(weights.parent)}"}
    sealed = workspace.folder("caption").glob("*.json*")
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in sealed)
    assert caption.run(workspace, config(str(tmp_path / "w1")), QUIET).already_done
    weights.write_bytes(b"two")
    with pytest.raises(SealedError, match=r"already made from other inputs: weights_sha256 \(.* now\); rerun with"):
        caption.run(workspace, config("./w1"), QUIET)
    caption.run(workspace, config("./w1"), OVERWRITE)
    assert len(lines(notes, "requests.jsonl")) == 24
    weights.write_bytes(b"one")
    caption.run(workspace, config("./w1"), OVERWRITE)
    assert len(lines(notes, "requests.jsonl")) == 24, "answers of weights that were asked before were paid for again"


def test_a_server_that_cannot_be_started_costs_no_captions(
    workspace: Workspace, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caption.run(workspace, config(), QUIET)
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(BackendError, match="needs the package 'vllm'"):
        caption.run(workspace, config("other"), OVERWRITE)
    assert len(captioned(workspace)) == 12
    assert caption.run(workspace, config(), QUIET).already_done


def test_replicas_share_the_requests_and_the_gpus(
    workspace: Workspace, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    caption.run(workspace, config(replicas=2, server_args={"max-num-seqs": 16}), QUIET)
    starts = lines(notes, "starts.jsonl")
    assert sorted(start["devices"] for start in starts) == ["4,5", "6,7"]
    assert {start["arguments"]["max_num_seqs"] for start in starts} == {16}
    answered = [request["pid"] for request in lines(notes, "requests.jsonl")]
    assert set(answered) == {start["pid"] for start in starts}
    assert len(answered) == 12


def test_a_server_gets_neither_the_lock_of_the_workspace_nor_the_key_of_a_paid_service(
    workspace: Workspace, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    with workspace.lock():
        caption.run(workspace, config(), QUIET)
    (start,) = lines(notes, "starts.jsonl")
    assert not start["has_key"]
    inside = [file for file in start["files"] if file.startswith(str(workspace.root))]
    assert inside == [str(workspace.root / "caption" / "vllm-0.log")] * 2


def test_a_server_that_ends_in_the_run_is_started_again(
    workspace: Workspace, notes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUB_DIES_AFTER", "7")
    assert caption.run(workspace, config(), QUIET).kept == 12
    assert len(lines(notes, "starts.jsonl")) == 2
    requests = [request["image"] for request in lines(notes, "requests.jsonl")]
    assert len(requests) <= 13  # each image once, and the probe that found the server well again
    assert "exit code 7 (RuntimeError: the card is out of memory)" in capsys.readouterr().err


def test_a_server_that_keeps_ending_stops_the_run_which_then_continues(
    workspace: Workspace, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_DIES_AFTER", "1")
    with pytest.raises(StageStopped, match=r"ended 4 times.*RuntimeError: the card is out of memory.*to continue"):
        caption.run(workspace, config(), QUIET)
    assert len(lines(notes, "starts.jsonl")) == RESTARTS + 1
    assert not any(is_running(pid) for pid in processes(notes))
    answered = len(lines(notes, "requests.jsonl"))
    assert 0 < answered < 12
    monkeypatch.delenv("STUB_DIES_AFTER")
    assert caption.run(workspace, config(), QUIET).kept == 12
    assert len(captioned(workspace)) == 12


def test_ends_with_good_service_between_do_not_add_up(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "SECONDS_OF_GOOD_SERVICE", 0.0)
    monkeypatch.setattr(vllm_server, "SECONDS_BETWEEN_LOOKS", 0.02)
    monkeypatch.setattr(vllm_server, "SECONDS_BETWEEN_CHECKS", 0.02)
    failures: list[StageStopped] = []
    ending = threading.Event()
    plan = vllm_server.ServerPlan("tiny", "tiny", sys.executable, (), tmp_path / "log")
    server = vllm_server.VllmServer(plan, failures.append, ending)
    server.launch()
    try:
        server.wait_until_ready()
        for number in range(1, RESTARTS + 3):
            pid = lines(notes, "starts.jsonl")[-1]["pid"]
            # One look while it was waited for, and one that was answered before the next was sent.
            wait_until(lambda pid=pid: [look["pid"] for look in lines(notes, "health.jsonl")].count(pid) >= 3)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda number=number: failures or len(lines(notes, "starts.jsonl")) > number)
    finally:
        ending.set()
        server.stop()
    assert failures == []


def test_a_server_that_hangs_is_started_again(
    workspace: Workspace, notes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUB_HANGS_AFTER", "7")
    monkeypatch.setattr(vllm_server, "SECONDS_BETWEEN_CHECKS", 0.1)
    monkeypatch.setattr(vllm_server, "SECONDS_OF_SILENCE", 1.0)
    monkeypatch.setattr(vllm_server, "SECONDS_PER_LOOK", 1.0)
    assert caption.run(workspace, config(), QUIET).kept == 12
    assert len(lines(notes, "starts.jsonl")) == 2
    assert "vLLM server 0: ended with no answer for 1 s; start 2 of at most 4" in capsys.readouterr().err
    assert not any(is_running(pid) for pid in processes(notes))


def engine_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    """The lines in which vLLM 0.32 tells that its engine ended by ``error``."""
    words = tmp_path / "last-words.txt"
    words.write_text(
        "(APIServer pid=1) WARNING 11-21 19:19:21 [system_utils.py:255] This can cause OSError: Too many open files\n"
        f"(Worker pid=3) ERROR 11-21 19:20:57 [multiproc_executor.py:1063] {error}\n"
        "(EngineCore pid=2) ERROR 11-21 19:20:57 [core.py:1512]     raise RuntimeError(\n"
        "(EngineCore pid=2) ERROR 11-21 19:20:57 [core.py:1512] RuntimeError: Worker failed with error "
        f"'{error}', please check the stack trace above for the root cause\n"
        "(APIServer pid=1) ERROR 11-21 19:20:57 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: "
        "EngineCore encountered an issue. See stack trace (above) for the root cause.\n"
        "(APIServer pid=1) INFO:     Shutting down\n"
    )
    monkeypatch.setenv("STUB_LAST_WORDS", str(words))
    monkeypatch.setenv("STUB_DIES_AFTER", "1")


def test_of_all_that_a_dying_engine_says_the_cause_is_told(
    workspace: Workspace, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_dies(tmp_path, monkeypatch, "ValueError: no room for 9 tokens")
    with pytest.raises(StageStopped, match=r"last time with exit code 7 \(ValueError: no room for 9 tokens\); look"):
        caption.run(workspace, config(), QUIET)


def test_an_engine_that_would_end_again_is_not_started_again_and_the_sentence_says_what_helps(
    workspace: Workspace, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_dies(tmp_path, monkeypatch, "RuntimeError: CPU Generator does not use offset")
    expected = r"not use offset\): .* add --server-args '--no-enable-chunked-prefill'; look at .*vllm-0.log and run"
    with pytest.raises(StageStopped, match=expected):
        caption.run(workspace, config(), QUIET)
    assert len(lines(notes, "starts.jsonl")) == 1


def test_a_server_that_cannot_start_is_one_sentence_with_its_last_error(
    workspace: Workspace, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_REFUSES", "1")
    with pytest.raises(PfcvrError, match=r"exit code 3 \(ValueError: no such model\); look at .*vllm-0.log"):
        caption.run(workspace, config(), QUIET)


def start_command(workspace: Workspace) -> "subprocess.Popen[str]":
    arguments = ["caption", "-w", str(workspace.root), "--captioner", "vllm", "--model", "tiny"]
    command = [sys.executable, "-c", PROGRAM, *arguments, "--prompt", "vehicle-text"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores Ctrl-C
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_servers_end_with_the_run_however_it_ends(
    how: signal.Signals, workspace: Workspace, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_LOADING", "600")
    run = start_command(workspace)
    wait_until(lambda: len(lines(notes, "starts.jsonl")) == 1)
    run.send_signal(how)
    _, told = run.communicate(timeout=30)
    assert run.returncode == (130 if how is signal.SIGINT else -how)
    wait_until(lambda: not any(is_running(pid) for pid in processes(notes)))
    monkeypatch.setenv("STUB_LOADING", "0")
    with workspace.lock():
        assert caption.run(workspace, config(), QUIET).kept == 12
    assert "Traceback" not in told


def test_a_killed_guardian_takes_the_server_along(
    workspace: Workspace, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_LOADING", "600")
    run = start_command(workspace)
    wait_until(lambda: len(lines(notes, "starts.jsonl")) == 1)
    (start,) = lines(notes, "starts.jsonl")
    guardian = int(Path(f"/proc/{start['pid']}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guardian, signal.SIGKILL)
    wait_until(lambda: not is_running(start["pid"]))
    _, told = run.communicate(timeout=30)
    assert run.returncode == 1
    assert "ended before it was ready" in told
    os.kill(start["engine"], signal.SIGKILL)


def test_an_interpreter_without_vllm_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackendError) as caught:
        entry_point(sys.executable)
    assert f"which {sys.executable} does not have; run: {sys.executable} -m pip install vllm, or give --python" in str(
        caught.value
    )
    with pytest.raises(BackendError, match=r"cannot be run \(no such file or directory\)"):
        entry_point(str(tmp_path / "python"))


def test_a_captioner_without_a_model_or_with_an_address_is_refused(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="needs a model"):
        caption.run(workspace, CaptionConfig(captioner="vllm"), QUIET)
    with pytest.raises(UsageError, match="starts its own server"):
        caption.run(workspace, config(base_url="http://127.0.0.1:1/v1"), QUIET)


def test_gpus_are_dealt_evenly_or_refused() -> None:
    assert shares(["0", "1", "2", "3", "4"], 2) == [("0", "1"), ("2", "3")]
    assert shares([], 3) == [None, None, None]
    assert shares(["0", "1"], 1) == [None]
    with pytest.raises(BackendError, match="3 replicas on 2 GPUs"):
        shares(["0", "1"], 3)


def test_an_empty_list_of_devices_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_devices() == []


def options(value: Any) -> tuple[str, ...]:
    return parse(CaptionConfig, {"captioner": "vllm", "server_args": value}, "here").server_args


def test_server_options_read_the_same_as_text_and_as_a_table() -> None:
    table = {"max-num-seqs": 16, "dtype": "float32", "enforce-eager": True, "disable-log-stats": False}
    assert options(table) == options("--max-num-seqs 16 --dtype float32 --enforce-eager")
    assert options({"limit-mm-per-prompt": {"image": 1}}) == ("--limit-mm-per-prompt", '{"image": 1}')
    with pytest.raises(UsageError, match="no closing quotation"):
        options("--dtype 'float32")


@pytest.mark.parametrize(
    ("value", "option"),
    [
        ("--port 18765", "--port"),
        ("--enforce-eager --host=0.0.0.0", "--host"),
        ("--served_model_name other", "--served_model_name"),
        ("--served mine", "--served"),
        ("--ssl-keyfile key.pem", "--ssl-keyfile"),
        ({"model": "other"}, "--model"),
    ],
)
def test_where_a_server_listens_and_what_it_calls_its_model_is_not_for_server_options(value: Any, option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} is chosen by the run itself; leave it out"):
        options(value)


def test_options_that_begin_like_ours_are_others() -> None:
    assert options("--model-impl transformers --hf-overrides '{}'")[0] == "--model-impl"


@pytest.mark.parametrize("values", [{"replicas": 2}, {"python": "python3"}, {"server_args": "--enforce-eager"}])
def test_settings_of_own_servers_are_refused_beside_another_captioner(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="this is for captioner 'vllm' alone; leave it out"):
        parse(CaptionConfig, {"captioner": "openai", **values}, "here")
