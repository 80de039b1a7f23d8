"""The doctor's three questions, put to servers with one illness each."""

import json

import fault_server as faults
import pytest

from pfcvr.cli import data_app, run
from pfcvr.config import DoctorConfig
from pfcvr.errors import ServerError
from pfcvr.pipeline import doctor

PIXELS_PER_TOKEN = 1024


def healthy(asked: faults.Asked) -> faults.Behaviour:
    """A server that imposes schemas, counts tokens by the picture's size, and looks at it."""
    schema = asked.body.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema is not None and "caption" in schema["properties"]:
        return faults.answer()
    if schema is not None:
        return faults.answer(json.dumps({"answer": schema["properties"]["answer"]["enum"][0]}))
    width, height, color = asked.picture if asked.picture is not None else (0, 0, "nothing")
    usage = {"prompt_tokens": 20 + width * height // PIXELS_PER_TOKEN, "completion_tokens": 2}
    return faults.answer(color, usage=usage)


def ill(asked: faults.Asked, **symptoms: faults.Behaviour) -> faults.Behaviour:
    """``symptoms`` by the kind of question they answer; the rest is healthy."""
    kind = "schema" if asked.is_schema_question else "image" if asked.picture and not asked.is_caption else "stop"
    return symptoms.get(kind if asked.picture or kind == "schema" else "none") or healthy(asked)


@pytest.fixture
def examine(start):
    def examine_server(prompt: str = "vehicle-json", **symptoms) -> tuple[doctor.Diagnosis, dict[str, str]]:
        server = start(script=lambda asked: ill(asked, **symptoms), probe=None)
        diagnosis = doctor.run(DoctorConfig(base_url=server.url, prompt=prompt))
        return diagnosis, {f.question: f.said for f in diagnosis.findings if not f.passed}

    return examine_server


def test_a_healthy_server_is_ready(examine) -> None:
    diagnosis, failed = examine()
    assert failed == {}
    assert diagnosis.passed
    schema, image, stop = (finding.said for finding in diagnosis.findings)
    assert schema == "the answer kept to a schema that the question spoke against"
    assert image == (
        "20 prompt tokens without a picture, 84 with 256 px, 596 with 768 px; 'red' for a red picture, "
        "'blue' for a blue one"
    )
    assert stop == "ended by itself after 150 of 512 tokens; this caption of a drawing would be kept"
    assert diagnosis.text().splitlines()[-1] == "ready"


@pytest.mark.parametrize("text", ["hello", '{"answer": "hello"}', '{"answer": "amber-41-heron", "more": 1}'])
def test_a_schema_that_is_accepted_and_ignored_is_found(examine, text: str) -> None:
    diagnosis, failed = examine(schema=faults.answer(text))
    assert failed == {"schema": f"the server accepted a schema and did not impose it: '{text}'"}
    assert diagnosis.text().splitlines()[-1] == "not ready: schema"


def test_an_endless_answer_is_shown_cut_short(examine) -> None:
    _, failed = examine(schema=faults.answer("[" * 5000))
    assert failed["schema"].endswith("'" + "[" * 60 + "...'")


def test_a_schema_that_is_refused_is_told_in_the_servers_words(examine) -> None:
    _, failed = examine(schema=faults.error(400, "response_format is not supported"))
    assert failed == {"schema": "no answer (request_refused): 400: response_format is not supported"}


def test_a_prompt_for_plain_text_needs_no_schema(examine) -> None:
    diagnosis, _ = examine("vehicle-text", schema=faults.answer("hello"))
    assert diagnosis.findings[0] == doctor.Finding("schema", True, "not asked: the prompt wants plain text")


def test_a_picture_that_never_reaches_the_model_is_found(examine) -> None:
    blind = faults.answer("gray", usage={"prompt_tokens": 20, "completion_tokens": 1})
    _, failed = examine(image=blind)
    assert failed["image"].startswith(
        "the picture never reaches the model: 20 prompt tokens without a picture, 20 with"
    )


def test_a_model_that_pays_for_the_picture_and_does_not_look_is_found(examine) -> None:
    same = faults.answer("gray", usage={"prompt_tokens": 276, "completion_tokens": 1})
    _, failed = examine(image=same)
    assert failed["image"].endswith(
        "(every picture costs the same here); 'gray' for a red picture, 'gray' for a blue one"
    )


def test_a_server_that_counts_nothing_is_judged_by_its_answers(examine) -> None:
    _, failed = examine(none=faults.answer("nothing", usage=None))
    assert failed == {}
    _, failed = examine(none=faults.answer("gray", usage=None), image=faults.answer("gray", usage=None))
    assert failed["image"].startswith("the server counts no prompt tokens; 'gray' for a red picture")


def test_an_answer_that_does_not_end_is_found(examine) -> None:
    endless = faults.answer('{"color": ' + " " * 900, "length", usage={"prompt_tokens": 900, "completion_tokens": 512})
    _, failed = examine(stop=endless)
    assert failed == {"stop": "ended by 'length' after 512 of 512 tokens: '{\"color\":'"}


def test_the_verdict_on_the_caption_is_told_and_fails_nothing(examine) -> None:
    diagnosis, failed = examine(stop=faults.answer("I cannot help with that."))
    assert failed == {}
    assert "would be rejected as not_json" in diagnosis.findings[2].said


def test_an_impossible_port_is_one_sentence(capsys) -> None:
    assert run(data_app, "pfcvr-data", ["doctor", "--base-url", "http://127.0.0.1:99999/v1"]) == 2
    assert "has no port from 1 to 65535" in capsys.readouterr().err


def test_a_server_that_answers_nothing_is_one_sentence(start) -> None:
    server = start(script=lambda asked: faults.error(401), probe=None)
    with pytest.raises(ServerError, match="answers 401, a key is needed: set OPENAI_API_KEY$"):
        doctor.run(DoctorConfig(base_url=server.url))


def test_the_command_exits_with_one_when_a_question_fails(start, capsys) -> None:
    server = start(script=healthy, probe=None)
    assert run(data_app, "pfcvr-data", ["doctor", "--base-url", server.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    server.script = lambda asked: ill(asked, schema=faults.answer("hello"))
    assert run(data_app, "pfcvr-data", ["doctor", "--base-url", server.url, "--model", "tiny-vl"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("schema  FAILED  the server accepted a schema and did not impose it: 'hello'")
    assert lines[-1] == "not ready: schema"
    assert run(data_app, "pfcvr-data", ["doctor", "--base-url", server.url, "--model", "other", "--json"]) == 1
    assert "has no model 'other'; it has: tiny-vl" in json.loads(capsys.readouterr().out)["error"]["message"]
