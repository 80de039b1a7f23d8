"""Captions from a server: what is asked, what is kept, what is paid for, and which troubles end a run."""

import base64
import json
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO

import fault_server as faults
import pytest
from PIL import Image

from pfcvr.cli import data_app, run
from pfcvr.errors import NothingKept, SealedError, ServerError, StageStopped, UsageError, WorkspaceError
from pfcvr.pipeline.captioners import answer_source, openai_
from pfcvr.pipeline.captioners.chat_client import ChatClient, ClientSettings, Retries
from pfcvr.pipeline.captioners.chat_request import chat_body
from pfcvr.pipeline.captioners.prompt import load_prompt
from pfcvr.pipeline.status import workspace_status
from pfcvr.stage import RunOptions

OVERWRITE = RunOptions(quiet=True, overwrite=True)


def test_a_request_shows_the_prompt_the_picture_and_the_schema_and_the_caption_says_where_it_is_from(
    pictures, start
) -> None:
    captioning, server = pictures(3), start()
    assert captioning.run(server, model="tiny-vl", seed=7).kept == 3
    prompt = load_prompt("vehicle-json")
    (body, *_), records = server.bodies, captioning.captions()
    system, user = body["messages"]
    assert (system["role"], system["content"]) == ("system", prompt.system)
    assert [item["type"] for item in user["content"]] == ["image_url", "text"]
    kind, _, data = user["content"][0]["image_url"]["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(BytesIO(base64.b64decode(data))).size == (32, 32)
    schema = body["response_format"]["json_schema"]
    assert (schema["strict"], schema["schema"]) == (True, prompt.json_schema)
    assert (body["model"], body["seed"], body["max_tokens"], body["top_k"]) == ("tiny-vl", 7, 512, 20)
    record = records["00000/000000"]
    assert record.texts == (faults.CAPTION,)
    assert record.part_texts["roof"] == "plain white roof"
    assert "mirrors" not in record.part_texts
    origin = record.origin
    assert (origin.captioner, origin.model, origin.revision) == ("openai", "tiny-vl", "tiny-vl")
    assert (origin.prompt, origin.prompt_sha256) == ("vehicle-json-1", prompt.sha256)
    assert origin.sampling == {**prompt.sampling, "max_tokens": 512}
    assert (origin.seed, origin.finish_reason, origin.prompt_tokens, origin.completion_tokens) == (7, "stop", 700, 150)


def test_the_only_model_of_a_server_needs_no_name(pictures, start) -> None:
    captioning = pictures(1)
    captioning.run(start())
    assert next(iter(captioning.captions().values())).origin.model == "tiny-vl"


def test_an_answer_is_paid_for_once_whatever_is_done_to_the_stage(pictures, start) -> None:
    captioning, server = pictures(6), start()
    captioning.run(server)
    first = captioning.sealed_bytes()
    assert captioning.run(server).already_done
    (captioning.workspace.folder("caption") / "part-00000.jsonl").write_text("altered by hand\n")
    captioning.run(server, OVERWRITE)
    assert captioning.sealed_bytes() == first
    assert sum(server.asked.values()) == 6
    captioning.run(server, OVERWRITE, seed=100)
    assert sum(server.asked.values()) == 12, "another seed is another question"


def test_a_sealed_stage_needs_no_server(pictures, start) -> None:
    captioning, server = pictures(2), start()
    captioning.run(server, model="tiny-vl")
    server.die()
    assert captioning.run(server, model="tiny-vl").already_done


def test_a_sealed_stage_whose_model_was_never_named_needs_no_server_either(pictures, start) -> None:
    captioning, server = pictures(2), start()
    captioning.run(server)
    server.die()
    assert captioning.run(server).already_done
    assert captioning.run(server, OVERWRITE).already_done
    for changes in ({"seed": 3}, {"prompt": "vehicle-text"}, {"image": {"jpeg_quality": 80}}):
        with pytest.raises(ServerError, match="no server answers there"):
            captioning.run(server, OVERWRITE, **changes)
    with pytest.raises(SealedError, match=r"seed \(0 before, 3 now\)"):
        captioning.run(start(), seed=3)


def test_captions_stay_until_the_server_that_is_to_make_others_answers(pictures, start) -> None:
    captioning, server = pictures(3), start()
    captioning.run(server, model="tiny-vl")
    before = captioning.sealed_bytes()
    server.die()
    with pytest.raises(ServerError, match="no server answers there"):
        captioning.run(server, OVERWRITE, model="another")
    assert captioning.sealed_bytes() == before
    assert captioning.run(server, model="tiny-vl").already_done


def test_answers_that_are_all_kept_need_no_server(pictures, start) -> None:
    captioning, server = pictures(4), start()
    captioning.run(server, model="tiny-vl")
    first = captioning.sealed_bytes()
    captioning.run(server, OVERWRITE, model="tiny-vl", seed=9)
    server.die()
    assert captioning.run(server, OVERWRITE, model="tiny-vl").kept == 4
    assert captioning.sealed_bytes() == first


def test_whatever_keeps_the_client_from_starting_ends_the_run_and_is_no_rows_fault(
    pictures, start, monkeypatch
) -> None:
    def breaks(*_: object) -> None:
        raise OverflowError("port must be 0-65535")

    captioning, server = pictures(5), start()
    monkeypatch.setattr(answer_source, "choose_model", breaks)
    with pytest.raises(StageStopped, match=r"'openai' cannot start \(OverflowError: port must be 0-65535\); mend the"):
        captioning.run(server, model="tiny-vl")
    monkeypatch.undo()
    assert captioning.run(server, model="tiny-vl").kept == 5


def test_a_bad_answer_is_followed_by_another_question_and_rejected_after_three(pictures, start) -> None:
    captioning = pictures(2)
    bad = faults.BAD_ANSWERS["exclamation marks"]
    server = start(script=lambda asked: bad if asked.image == server.first or asked.nth < 3 else faults.answer())
    summary = captioning.run(server)
    (rejected,), (kept,) = captioning.rejected().values(), captioning.captions().values()
    assert (summary.kept, rejected.reason, rejected.attempts) == (1, "degenerate", 3)
    drawn = {(body["seed"], body["temperature"], body["presence_penalty"]) for body in server.bodies}
    assert len(drawn) == 3, "the same question three times"
    assert (kept.origin.seed, kept.origin.sampling["temperature"], kept.origin.sampling["presence_penalty"]) in drawn
    assert kept.origin.seed == 2
    assert sorted(server.asked.values()) == [3, 3]


def test_a_cut_off_answer_gets_a_larger_budget(pictures, start) -> None:
    captioning = pictures(1)
    server = start(script=lambda asked: faults.answer("{", "length") if asked.nth == 1 else faults.answer())
    assert captioning.run(server).kept == 1
    assert [body["max_tokens"] for body in server.bodies] == [512, 1024]


def test_retry_asks_anew_about_images_whose_kept_answers_are_all_bad(pictures, start) -> None:
    captioning = pictures(4)
    bad = faults.BAD_ANSWERS["no object"]
    server = start(script=lambda asked: bad if asked.image == server.first and asked.nth < 5 else faults.answer())
    assert captioning.run(server).reasons == {"not_json": 1}
    summary = captioning.run(server, RunOptions(quiet=True, retry="not_json"))
    assert (summary.kept, summary.rejected) == (4, 0)
    assert sorted(server.asked.values()) == [1, 1, 1, 5]
    assert len({body["seed"] for body in server.bodies}) == 5


@pytest.mark.parametrize("name", faults.PASSING)
def test_a_passing_trouble_is_met_with_the_same_question(pictures, start, name: str) -> None:
    captioning = pictures(3)
    server = start(script=lambda asked: faults.PASSING[name] if asked.nth < 3 else faults.answer())
    assert captioning.run(server).kept == 3
    assert sorted(server.asked.values()) == [3, 3, 3]
    assert {body["seed"] for body in server.bodies} == {0}


@pytest.mark.parametrize("name", faults.BAD_ANSWERS)
def test_a_bad_answer_is_never_a_caption(pictures, start, name: str) -> None:
    captioning = pictures(2)
    server = start(script=lambda asked: faults.BAD_ANSWERS[name] if asked.nth == 1 else faults.answer())
    assert captioning.run(server).kept == 2
    assert all(caption.texts == (faults.CAPTION,) for caption in captioning.captions().values())
    assert sorted(server.asked.values()) == [2, 2]


@pytest.mark.parametrize(
    ("connection", "reason"), [("stall", "timeout"), ("drip", "timeout"), ("half", "broken_answer")]
)
def test_a_request_that_never_ends_well_costs_its_image_alone(pictures, start, connection: str, reason: str) -> None:
    captioning = pictures(4)
    endless = faults.Behaviour(faults.answer().body, connection=connection)
    server = start(script=lambda asked: endless if asked.image == server.first else faults.answer())
    summary = captioning.run(server, timeout=0.6)
    assert (summary.kept, summary.reasons) == (3, {reason: 1})
    assert sorted(server.asked.values()) == [1, 1, 1, 5]
    assert server.probes >= 1, "a small question tells a dead server from a bad image"


@pytest.mark.parametrize(("status", "reason"), [(400, "request_refused"), (413, "request_too_large")])
def test_a_request_that_the_server_refuses_is_rejected_at_once(pictures, start, status: int, reason: str) -> None:
    captioning = pictures(3)
    refusal = faults.error(status, "the picture is too wide")
    server = start(script=lambda asked: refusal if asked.image == server.first else faults.answer())
    captioning.run(server)
    (row,) = captioning.rejected().values()
    assert (row.reason, row.detail, row.attempts) == (reason, f"{status}: the picture is too wide", 1)
    assert sorted(server.asked.values()) == [1, 1, 1]


def test_a_schema_that_the_server_refuses_ends_the_run_before_a_second_image(pictures, start) -> None:
    captioning = pictures(30)
    refusal = faults.error(400, "grammar: unsupported keyword maxLength")
    server = start(script=lambda asked: refusal, probe=lambda: refusal)
    with pytest.raises(StageStopped, match="refuses what is asked, whatever the image .400: grammar: unsupported key"):
        captioning.run(server, concurrency=1)
    assert not captioning.workspace.folder("caption").joinpath("rejected-running.jsonl").read_bytes()


@pytest.mark.usefixtures("impatient")
def test_a_dead_server_stops_the_run_and_no_row_is_rejected(pictures, start) -> None:
    captioning = pictures(40)

    def script(asked: faults.Asked) -> faults.Behaviour:
        if len(server.asked) > 25:
            return faults.Behaviour(connection="reset")
        return faults.answer()

    server = start(script=script, probe=lambda: faults.error(502) if len(server.asked) > 25 else faults.answer("fine"))
    with pytest.raises(StageStopped, match=r"127.0.0.1:\d+/v1: the server has answered nothing for .* run the same"):
        captioning.run(server)
    (status,) = (row for row in workspace_status(captioning.workspace) if row.stage == "caption")
    assert (status.state, status.rejected) == ("unfinished", 0)
    assert 1 <= status.kept <= 25
    well = start()
    summary = captioning.run(well)
    assert (summary.kept, summary.rejected) == (40, 0)
    assert not set(well.asked) & {image for image in list(server.asked)[:25]}, "an answered image was asked about again"


def test_a_server_that_comes_back_in_time_loses_nothing(pictures, start, monkeypatch) -> None:
    monkeypatch.setattr(openai_, "RETRIES", Retries(tries=2, first_wait=0.01, longest_wait=0.05, patience=30))
    captioning = pictures(30)
    # More than the eight rows at work can use up by themselves: the probe has to fail too.
    troubles = [faults.Behaviour(connection="reset")] * 40

    def now(good: faults.Behaviour) -> faults.Behaviour:
        return troubles.pop() if len(server.asked) > 10 and troubles else good

    server = start(script=lambda asked: now(faults.answer()), probe=lambda: now(faults.answer("fine")))
    summary = captioning.run(server)
    assert (summary.kept, summary.rejected, troubles) == (30, 0, [])
    assert server.probes > 10
    assert max(server.asked.values()) <= 3, "rows did not wait together for the server to come back"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_picture_that_a_gateway_refuses_does_not_end_the_run(pictures, start, status) -> None:
    captioning = pictures(12)
    server = start()

    def script(asked: faults.Asked) -> faults.Behaviour:
        return faults.error(status, "filtered") if asked.image in list(server.asked)[5:6] else faults.answer()

    server.script = script
    summary = captioning.run(server, concurrency=1)
    assert (summary.kept, summary.reasons) == (11, {"request_refused": 1})


def test_an_overloaded_server_is_asked_less_at_a_time(pictures, start) -> None:
    captioning = pictures(60)
    room = 3

    def script(asked: faults.Asked) -> faults.Behaviour:
        return faults.error(429) if server.at_once > room else faults.answer(delay=0.01)

    server = start(script=script)
    assert captioning.run(server, concurrency=16).kept == 60
    refused = sum(server.asked.values()) - 60
    assert 0 < refused < 60, "places for requests were not cut where the server had no room"


def test_no_request_is_sent_before_the_time_that_the_server_names(pictures, start) -> None:
    captioning = pictures(8)
    server = start(script=lambda asked: faults.error(429, retry_after="1") if server.calls == 4 else faults.answer())
    captioning.run(server, concurrency=2)
    pauses = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert max(pauses) > 0.9
    assert sum(server.asked.values()) == 9


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (faults.error(429), "has refused every request for"),
        (faults.error(503, retry_after="86400"), "asks to wait 86,400 s before the next request"),
        (faults.json_body({"error": {"code": "insufficient_quota", "message": "pay"}}, 429), "quota_used_up: 429: pay"),
        (faults.error(402, "top up"), "quota_used_up: 402: top up"),
        (faults.error(404, "The model is gone"), r"has no chat completions for the model 'tiny-vl' \(404: The model"),
        (faults.error(401), "answers 401, a key is needed: set OPENAI_API_KEY"),
    ],
)
def test_a_server_that_will_answer_nobody_ends_the_run_with_one_sentence(pictures, start, behaviour, words) -> None:
    captioning = pictures(20)
    server = start(script=lambda asked: behaviour, probe=lambda: behaviour)
    with pytest.raises(StageStopped, match=f"{words}.*rows without an answer stay pending, run the same command"):
        captioning.run(server)
    assert not captioning.workspace.folder("caption").joinpath("rejected-running.jsonl").read_bytes()


def test_the_key_is_sent_and_shows_nowhere(pictures, start, monkeypatch) -> None:
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    captioning, server = pictures(4), start(key=key.lower())
    echo = faults.error(400, f"the request with key {key} is refused")
    server.script = lambda asked: echo if len(server.asked) == 4 else faults.answer()
    assert captioning.run(server).kept == 3
    assert "key ***" in next(iter(captioning.rejected().values())).detail
    written = [path.read_bytes() for path in captioning.workspace.root.rglob("*") if path.is_file()]
    assert not any(key.encode() in content for content in written)
    wrong = start(key="another")
    with pytest.raises(ServerError, match="the server refuses the key in OPENAI_API_KEY") as caught:
        captioning.run(wrong, OVERWRITE, seed=5)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"base_url": None}, "captioner 'openai' needs the server's address; give it with --base-url http"),
        ({"base_url": "127.0.0.1:8000"}, "is no http address; give one such as http://127.0.0.1:8000/v1"),
        ({"base_url": "http://me:word@127.0.0.1:8000"}, "holds a user name or password; leave it out"),
        ({"base_url": "http://127.0.0.1:port/v1"}, "--base-url is no address"),
        ({"base_url": "http://127.0.0.1:99999/v1"}, "has no port from 1 to 65535; give an address such as http"),
        ({"base_url": "http://127.0.0.1:-1/v1", "model": "m"}, "has no port from 1 to 65535"),
        ({"base_url": "http://127.0.0.1:0/v1", "model": "m"}, "has no port from 1 to 65535"),
        ({"captioner": "template"}, "captioner 'template' asks no model; for captions by --base-url http"),
    ],
)
def test_an_address_that_is_none_is_refused(pictures, start, settings, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        pictures(1).run(start(), **settings)


def test_a_server_that_cannot_be_used_is_named_in_one_sentence(pictures, start) -> None:
    captioning = pictures(1)
    server = start(models=tuple(f"model-{number}" for number in range(10)))
    with pytest.raises(ServerError, match="has no model 'qwen'; it has: model-0, .*, model-7 and 2 more"):
        captioning.run(server, model="qwen")
    with pytest.raises(ServerError, match="the server has 10 models: model-0, .*; choose one with --model"):
        captioning.run(server)
    with pytest.raises(ServerError, match="the server asks for a key; set OPENAI_API_KEY"):
        captioning.run(start(key="k"), model="tiny-vl")
    with pytest.raises(ServerError, match="does not list its models; choose one with --model"):
        captioning.run(start(models=None))
    with pytest.raises(ServerError, match="not an OpenAI-compatible server, or not ready .GET /models gave status 200"):
        captioning.run(start(models=faults.Behaviour(b"<html>Welcome</html>")), model="tiny-vl")
    server.die()
    with pytest.raises(ServerError, match="no server answers there .*; start it or correct --base-url"):
        captioning.run(server, model="tiny-vl")


def test_a_server_without_a_list_of_models_is_believed(pictures, start) -> None:
    assert pictures(2).run(start(models=None), model="tiny-vl").kept == 2


def test_a_picture_that_changed_since_it_was_imported_gets_no_words(pictures, start) -> None:
    captioning = pictures(3)
    folder = captioning.workspace.root.parent / "source/images/00000"
    Image.new("RGB", (40, 40), "red").save(folder / "000001.png")
    (folder / "000002.png").unlink()
    assert captioning.run(start()).reasons == {"changed_file": 1, "missing_file": 1}


def test_a_limited_run_asks_about_so_many_images_and_the_next_one_about_the_rest(pictures, start) -> None:
    captioning, server = pictures(9), start()
    assert captioning.run(server, RunOptions(quiet=True, limit=4)).pending == 5
    assert len(server.asked) == 4
    assert captioning.run(server).kept == 9
    assert sum(server.asked.values()) == 9


def test_latency_and_tries_go_to_the_telemetry_alone(pictures, start) -> None:
    captioning = pictures(3)
    server = start(script=lambda asked: faults.error(500) if asked.nth == 1 else faults.answer())
    captioning.run(server)
    lines = captioning.workspace.folder("caption").joinpath("telemetry.jsonl").read_text().splitlines()
    asked = [row for row in map(json.loads, lines) if row["event"] == "asked"]
    assert {row["image_id"] for row in asked} == set(captioning.captions())
    assert all(request["tries"] == 2 and request["seconds"] > 0 for row in asked for request in row["requests"])


def test_kept_answers_that_are_damaged_are_named(pictures, start) -> None:
    captioning, server = pictures(2), start()
    cache = captioning.workspace.root / "cache/answers.sqlite"
    cache.parent.mkdir()
    cache.write_bytes(b"no database at all" * 100)
    with pytest.raises(WorkspaceError, match=r"answers.sqlite: the kept answers are damaged .* move the file away"):
        captioning.run(server)
    cache.unlink()
    assert captioning.run(server).kept == 2
    with sqlite3.connect(cache) as db:
        assert db.execute("SELECT count(*) FROM reply").fetchone() == (2,)
    db.close()


@pytest.mark.parametrize("obstacle", ["file in place of the folder", "folder in place of the file"])
def test_answers_that_cannot_be_kept_are_not_asked_for(pictures, start, obstacle: str) -> None:
    captioning, server = pictures(30), start()
    cache = captioning.workspace.root / "cache"
    cache.write_text("") if obstacle.startswith("file") else (cache / "answers.sqlite").mkdir(parents=True)
    with pytest.raises(StageStopped, match=r"cache.*mend the cause and run the same command to continue"):
        captioning.run(server)
    assert server.calls == 0
    assert not captioning.workspace.folder("caption").joinpath("rejected-running.jsonl").read_bytes()


def test_another_prompt_is_another_question(pictures, start) -> None:
    captioning, server = pictures(2), start(script=lambda asked: faults.answer(faults.CAPTION))
    with pytest.raises(NothingKept, match="not_json"):
        captioning.run(server)
    assert captioning.run(server, OVERWRITE, prompt="vehicle-text").kept == 2
    assert "response_format" not in server.bodies[-1]
    assert captioning.captions()["00000/000000"].origin.prompt == "vehicle-text-1"


def ask_all(client: ChatClient, bodies: list[bytes]) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        return [answered.reply.text for answered in pool.map(client.ask, bodies)]


def test_several_servers_share_the_requests_and_one_that_dies_costs_nothing(start) -> None:
    first, second = (start(script=lambda asked: faults.answer("fine", delay=0.01), probe=None) for _ in range(2))
    retries = Retries(tries=3, first_wait=0.01, longest_wait=0.02, patience=5)
    client = ChatClient(ClientSettings([first.url, second.url], "tiny-vl", 8, retries=retries), b"{}")
    bodies = [chat_body("tiny-vl", f"question {number}", None) for number in range(60)]
    with closing(client):
        assert ask_all(client, bodies) == ["fine"] * 60
        assert 20 <= first.calls <= 40
        first.die()
        assert ask_all(client, bodies) == ["fine"] * 60
        assert first.calls + second.calls == 120


def test_the_command_prints_its_books_its_forecast_and_where_it_stands(pictures, start, capsys) -> None:
    captioning, server = pictures(40), start()
    command = ["caption", "-w", str(captioning.workspace.root), "--captioner", "openai", "--base-url", server.url]
    assert run(data_app, "pfcvr-data", [*command, "--concurrency", "4", "--limit", "35"]) == 0
    out, told = capsys.readouterr()
    assert out == "caption: 40 in, 35 kept, 0 rejected, 5 pending: run the same command without --limit to go on\n"
    assert "caption: 35 images to ask about, about " in told
    assert "caption: measured over 32 answers: 700 prompt and 150 completion tokens each, " in told
    assert "caption: 35 of 40, " in told
    assert " of 4 in flight, " in told
    assert " tokens/s" in told
    assert run(data_app, "pfcvr-data", [*command, "--json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["kept"] == 40
    assert "caption: 35 answers kept from before; what fits is taken and costs nothing" in again.err
    assert run(data_app, "pfcvr-data", [*command, "--prompt", "vehicle-text", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "SealedError"


def test_ctrl_c_is_exit_code_130(pictures, start) -> None:
    captioning = pictures(20)
    server = start(script=lambda asked: faults.Behaviour(connection="stall"))
    command = [sys.executable, "-c", "from pfcvr.cli import data_main; data_main()", "caption", "--captioner", "openai"]
    command += ["-w", str(captioning.workspace.root), "--base-url", server.url, "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while server.calls < 10:
        assert time.monotonic() < deadline, "the command never came so far"
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=30)
    assert child.returncode == 130
    assert json.loads(out)["error"]["message"] == "stopped by Ctrl-C; run the same command to continue"
