"""The pieces of the captioning client by themselves: places for requests, what a response means, what is kept."""

import asyncio
import json
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfcvr.config import ImageInputConfig
from pfcvr.pipeline.captioners.chat_reply import Remedy, Reply, Trouble, read_reply, same_model, seconds_to_wait
from pfcvr.pipeline.captioners.concurrency import Slots
from pfcvr.pipeline.captioners.forecast import Meter, estimate
from pfcvr.pipeline.captioners.image_input import fitted_size, vision_tokens
from pfcvr.pipeline.captioners.prompt import load_prompt
from pfcvr.pipeline.captioners.request_cache import RequestCache
from pfcvr.records import ImageRecord

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["choices", "message", "error", "usage"]), inner),
    max_leaves=12,
)


@given(st.lists(st.sampled_from(["good", "refused"]), max_size=60), st.integers(1, 40))
def test_places_are_never_more_than_asked_for_nor_fewer_than_one(events: list[str], most: int) -> None:
    async def scenario() -> None:
        slots = Slots(most)
        for event in events:
            taken_at = await slots.acquire()
            slots.release()
            slots.succeeded() if event == "good" else slots.overloaded(taken_at)
            assert 1 <= slots.limit <= most
            assert slots.in_flight == 0

    asyncio.run(scenario())


def test_one_wave_of_refusals_halves_the_places_once_and_each_good_round_adds_one() -> None:
    async def scenario() -> list[float]:
        slots, seen = Slots(16), []
        for _ in range(2):
            wave = [await slots.acquire() for _ in range(int(slots.limit))]
            await asyncio.sleep(0.002)
            for taken_at in wave:
                slots.overloaded(taken_at)
                slots.release()
            seen.append(slots.limit)
            await asyncio.sleep(0.002)
        for _ in range(4):
            slots.succeeded()
        return [*seen, slots.limit]

    halves = asyncio.run(scenario())
    assert halves[:2] == [8, 4]
    assert 4.8 < halves[2] <= 5


def test_all_who_wait_for_a_place_get_one_and_never_too_many_at_once() -> None:
    async def scenario() -> int:
        slots, most = Slots(5), 0

        async def visit() -> None:
            nonlocal most
            await slots.acquire()
            most = max(most, slots.in_flight)
            await asyncio.sleep(0)
            slots.release()

        waiting = [asyncio.create_task(visit()) for _ in range(200)]
        await asyncio.sleep(0)
        for task in waiting[10:60:2]:
            task.cancel()
        slots.pause(0.02)
        await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
        assert slots.in_flight == 0
        return most

    assert asyncio.run(scenario()) == 5


def test_who_wants_to_be_alone_is_and_nobody_is_left_waiting() -> None:
    async def scenario() -> list[int]:
        slots = Slots(5)
        beside: list[int] = []

        async def visit(alone: bool) -> None:
            await slots.acquire(alone)
            for _ in range(3):
                if alone:
                    beside.append(slots.in_flight)
                await asyncio.sleep(0)
            slots.release()

        waiting = [asyncio.create_task(visit(number % 7 == 3)) for number in range(200)]
        await asyncio.sleep(0)
        for task in waiting[3:60:14]:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
        assert slots.in_flight == 0
        return beside

    beside = asyncio.run(scenario())
    assert len(beside) >= 3 * 20
    assert set(beside) == {1}


@given(st.sampled_from([200, 200, 200, 301, 400, 404, 429, 500, 503]), ANYTHING)
def test_any_response_is_an_answer_or_a_trouble(status: int, value: object) -> None:
    assert isinstance(read_reply(status, {}, json.dumps(value).encode(), "m"), Reply | Trouble)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_a_trouble(body: bytes) -> None:
    outcome = read_reply(200, {"retry-after": body.decode("latin-1")}, body, "m")
    assert isinstance(outcome, Trouble)
    assert outcome.remedy is Remedy.AGAIN


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("qwen3-vl", "qwen3-vl", True),
        ("Qwen/Qwen3-VL-32B-Instruct", "qwen3-vl-32b-instruct", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o", "gpt-4o-mini-2024-07-18", False),
        ("qwen3-vl-8b", "qwen3-vl-32b", False),
    ],
)
def test_a_dated_or_owned_name_is_the_same_model_and_a_longer_one_is_not(asked: str, answered: str, same: bool) -> None:
    assert same_model(asked, answered) is same


def test_the_time_to_wait_is_read_as_seconds_or_as_a_date() -> None:
    assert seconds_to_wait({"retry-after": "2.5"}) == 2.5
    assert seconds_to_wait({"retry-after": "-3"}) == 0
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 80 < (seconds_to_wait({"retry-after": later}) or 0) <= 90
    assert [seconds_to_wait({"retry-after": value}) for value in ("", "soon", "nan")] == [None, None, None]


def test_what_several_threads_keep_is_there_after_a_reopening(tmp_path) -> None:
    path = tmp_path / "cache" / "answers.sqlite"
    requests = [{"sha256": f"{number:04d}", "seed": 1} for number in range(200)]

    def keep(part: int) -> None:
        for request in requests[part::4]:
            cache.put(request, Reply(f"answer {request['sha256']} \ud800", "stop", "m", 7, None))

    with closing(RequestCache(path)) as cache:
        threads = [threading.Thread(target=keep, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with closing(RequestCache(path)) as cache:
        assert cache.get(requests[150]) == Reply("answer 0150 \ud800", "stop", "m", 7, None)
        assert cache.get({**requests[150], "seed": 2}) is None
        assert cache.get({"seed": 1, "sha256": "0150"}) is not None, "the order of the keys matters"


def test_a_torn_log_costs_the_torn_answer_alone(tmp_path) -> None:
    path = tmp_path / "answers.sqlite"
    cache = RequestCache(path)
    for number in range(20):
        cache.put({"number": number}, Reply("x" * 500))
    log = path.with_name("answers.sqlite-wal").read_bytes()
    whole = path.read_bytes()
    cache.close()
    other = tmp_path / "torn.sqlite"
    other.write_bytes(whole)
    other.with_name("torn.sqlite-wal").write_bytes(log[:-700])
    with closing(RequestCache(other)) as torn:
        found = [torn.get({"number": number}) is not None for number in range(20)]
    assert found[:18] == [True] * 18
    assert not all(found)
    with closing(sqlite3.connect(other)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def image(width: int, height: int) -> ImageRecord:
    return ImageRecord(
        image_id="1/1", vehicle_id="1", source="s", path="p", sha256="0" * 64, width=width, height=height
    )


def test_the_estimate_counts_the_picture_as_it_will_be_sent() -> None:
    prompt, settings = load_prompt("vehicle-json"), ImageInputConfig()
    before = estimate(1000, prompt, [image(300, 200), image(1920, 1080)], settings)
    sizes = [fitted_size(300, 200, settings), fitted_size(1920, 1080, settings)]
    assert before.vision == round(sum(vision_tokens(*size) for size in sizes) / 2)
    assert (before.images, before.answer) == (1000, 512)
    assert f"1,000 images to ask about, about {1000 * (before.instruction + before.vision):,} prompt" in before.text()
    assert "at most 512,000 completion tokens" in before.text()


def test_measured_figures_are_told_once_when_the_pipe_is_full() -> None:
    told: list[str] = []
    meter = Meter(1000, 20, told.append)
    for _ in range(100):
        meter.answered(Reply("x", prompt_tokens=700, completion_tokens=100))
        meter.image_done(1)
    (line,) = told
    assert line.startswith("measured over 40 answers: 700 prompt and 100 completion tokens each, ")
    assert "tokens/s" in meter.live()


def test_answers_about_images_still_at_work_do_not_make_the_rest_look_dearer() -> None:
    told: list[str] = []
    meter = Meter(1000, 20, told.append)
    for number in range(40):
        meter.answered(Reply("x", prompt_tokens=700, completion_tokens=100))
        if number in (1, 3):
            meter.image_done(2)
    assert "about 1,960 to go: 1,372,000 + 196,000 tokens" in told[0]
