"""What lies between us and a server: addresses, keys, proxies, and answers of a size or number nobody asked for."""

import json

import fault_server as faults
import pytest

from pfcvr.errors import ServerError, StageStopped, UsageError
from pfcvr.pipeline.captioners import endpoint

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:8000/v1?api_key=sk-hidden", "holds more than an address"),
        ("http://127.0.0.1:8000/v1#sk-hidden", "holds more than an address"),
        ("ftp://me:sk-hidden@127.0.0.1", "holds a user name or password"),
        ("//me:sk-hidden@127.0.0.1", "holds a user name or password"),
    ],
)
def test_an_address_with_a_key_in_it_is_refused_and_not_repeated(address: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"{words}.*OPENAI_API_KEY") as caught:
        endpoint.base_url(address)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-\u00e9", "two words"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(pictures, start, monkeypatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError, match="OPENAI_API_KEY holds white space or letters that no key has") as caught:
        pictures(1).run(start())
    assert key not in str(caught.value)


@pytest.mark.usefixtures("impatient")
def test_a_long_message_that_is_cut_short_inside_the_key_shows_no_part_of_it(pictures, start, monkeypatch) -> None:
    key = "sk-" + "Q" * 60
    monkeypatch.setenv("OPENAI_API_KEY", key)
    echo = faults.error(500, "x" * 270 + f" {key}")
    with pytest.raises(StageStopped, match=r"xx \*\*\*") as caught:
        pictures(2).run(start(script=lambda asked: echo, probe=lambda: echo))
    assert "sk-Q" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_no_proxy_hears_of_a_server_on_this_machine(pictures, start, monkeypatch, host: str) -> None:
    server, proxy = start(), start()
    for name in PROXIES:
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert pictures(3).run(server, base_url=f"http://{host}:{server.port}/v1").kept == 3
    assert (server.calls, proxy.calls) == (3, 0)


def test_an_answer_too_many_is_not_taken_for_the_next_pictures(pictures, start) -> None:
    def script(asked: faults.Asked) -> faults.Behaviour:
        usage = {"prompt_tokens": 700 + len(server.asked), "completion_tokens": 150}
        return faults.Behaviour(faults.answer(usage=usage).body, connection="twice")

    captioning, server = pictures(5), start(script=script)
    captioning.run(server, concurrency=1)
    tokens = sorted(record.origin.prompt_tokens for record in captioning.captions().values())
    assert tokens == [701, 702, 703, 704, 705]


def test_an_endless_list_of_models_is_not_read_to_its_end(pictures, start, monkeypatch) -> None:
    monkeypatch.setattr(endpoint, "LARGEST_ANSWER", 10_000)
    names = json.dumps({"data": [{"id": f"model-{number}"} for number in range(1000)]}).encode()
    with pytest.raises(ServerError, match="GET /models gave status 200 and no list of models"):
        pictures(1).run(start(models=faults.Behaviour(names)))


@pytest.mark.parametrize("connection", ["stall", "drip"])
def test_a_list_of_models_that_does_not_come_to_its_end_is_not_waited_for(
    pictures, start, monkeypatch, connection: str
) -> None:
    monkeypatch.setattr(endpoint, "SECONDS_FOR_A_LIST", 0.3)
    with pytest.raises(ServerError, match="no whole list of models within 0.3 s; look at the server"):
        pictures(1).run(start(models=faults.Behaviour(b" " * 1000, connection=connection)))


def test_a_model_whose_name_would_move_about_on_a_screen_is_none(pictures, start) -> None:
    server = start(models=("tiny-vl\x1b[2J", "x" * 9000))
    with pytest.raises(ServerError, match="the server has no model 'qwen'; it has: x{200}$"):
        pictures(1).run(server, model="qwen")
