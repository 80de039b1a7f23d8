"""A chat completions server on loopback that misbehaves by script: what a run of days meets, in seconds.

The standard library and a reader of pictures; it counts what it was asked, by image.
"""

import asyncio
import base64
import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal

from PIL import Image, ImageStat

MODEL = "tiny-vl"
PARTS = {
    "windows": "dark tinted windows",
    "wheels": "silver wheels with five spokes",
    "doors": "white doors",
    "mirrors": "",
    "lights": "clear headlights",
    "roof": "plain white roof",
}
CAPTION = (
    "A white sedan with dark tinted windows and silver five spoke wheels is seen from the front left. It has a black "
    "grille with a thin chrome frame, clear headlights that reach far back, a plain roof, a small sticker on the "
    "windshield, and a bumper with two round lamps."
)
FACTS = {"color": "white", "type": "sedan", "viewpoint": "front left"}
REASONS = {200: "OK", 429: "Too Many Requests"}


@dataclass(frozen=True)
class Asked:
    """One request: ``image`` is a digest of the picture in it (None without one), asked about for the nth time."""

    image: str | None
    nth: int
    body: dict[str, Any]

    @property
    def picture(self) -> tuple[int, int, str] | None:
        """Width and height in pixels, and the commonest of red, green and blue."""
        address = _address(self.body)
        if address is None:
            return None
        picture = Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")
        means = ImageStat.Stat(picture).mean
        return picture.width, picture.height, ("red", "green", "blue")[means.index(max(means))]

    @property
    def is_schema_question(self) -> bool:
        return "response_format" in self.body and not self.is_caption

    @property
    def is_caption(self) -> bool:
        """Whether it is asked as captions are, with an instruction."""
        return bool(self.body["messages"][0]["role"] == "system")


@dataclass(frozen=True)
class Behaviour:
    """What the server does with one request, after ``delay`` seconds."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    connection: Literal["keep", "reset", "half", "stall", "drip", "twice"] = "keep"
    delay: float = 0.0


def answer(
    content: str | None = None, finish_reason: str = "stop", model: str = MODEL, delay: float = 0.0, **changes: Any
) -> Behaviour:
    """A well-formed answer, by default a good caption."""
    if content is None:
        content = json.dumps({**FACTS, "parts": PARTS, "caption": CAPTION})
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 700, "completion_tokens": 150}
    body = json.dumps({"model": model, "choices": [choice], "usage": usage, **changes}).encode()
    return Behaviour(body, delay=delay)


def json_body(value: Any, status: int = 200, **headers: str) -> Behaviour:
    pairs = tuple((name.replace("_", "-"), text) for name, text in headers.items())
    return Behaviour(json.dumps(value).encode(), status, pairs)


def error(status: int, message: str = "no", **headers: str) -> Behaviour:
    return json_body({"error": {"message": message, "code": None}}, status, **headers)


PASSING: dict[str, Behaviour] = {
    "429": error(429),
    "429 with Retry-After": error(429, retry_after="0.02"),
    "500": error(500),
    "502 in HTML": Behaviour(b"<html>Bad Gateway</html>", 502),
    "reset": Behaviour(connection="reset"),
    "half a body": Behaviour(answer().body, connection="half"),
    "invalid JSON": Behaviour(b'{"choices": [{"message": '),
    "empty choices": answer(choices=[]),
    "no message": answer(choices=[{"finish_reason": "stop"}]),
    "error inside 200": json_body({"error": {"message": "engine died", "code": 500}}),
    "finish error": answer(finish_reason="error"),
    "finish abort": answer(finish_reason="abort"),
    "another model": answer(model="someone-else"),
    "not JSON at all": Behaviour(b"\x00\xff\xfe"),
    "a list": json_body([1, 2]),
}
"""Troubles after which the same request is simply sent again."""

BAD_ANSWERS: dict[str, Behaviour] = {
    "length": answer('{"color": "white", "type"', "length"),
    "whitespace flood": answer('{"color": ' + " \n" * 4000, "length"),
    "content filter": answer("", "content_filter"),
    "tool calls": answer("", "tool_calls"),
    "repetition": answer("white white white white", "repetition"),
    "exclamation marks": answer(json.dumps({**FACTS, "parts": PARTS, "caption": "!" * 300})),
    "no object": answer("A white sedan."),
    "content is null": answer(choices=[{"message": {"role": "assistant", "content": None}, "finish_reason": "stop"}]),
}
"""Whole answers that are no captions: the next request is another one."""


class RandomTroubles:
    """A script: before the good answer of each image, bad answers, and before each answer troubles that pass.

    There are never so many of either that a client with four tries and three attempts has to reject the image.
    """

    def __init__(self) -> None:
        self._plans: dict[str | None, list[Behaviour]] = {}

    def __call__(self, asked: Asked) -> Behaviour:
        plan = self._plans.setdefault(asked.image, self._plan(random.Random(len(self._plans))))
        return plan[asked.nth - 1] if asked.nth <= len(plan) else answer()

    def requests_needed(self) -> dict[str | None, int]:
        """For each image, the requests after which it has its caption."""
        return {image: len(plan) + 1 for image, plan in self._plans.items()}

    def _plan(self, rng: random.Random) -> list[Behaviour]:
        plan: list[Behaviour] = []
        for bad in [True] * rng.choice([0, 0, 0, 1, 2]) + [False]:
            plan += rng.choices(list(PASSING.values()), k=rng.choice([0, 0, 1, 3]))
            plan += [rng.choice(list(BAD_ANSWERS.values()))] if bad else []
        return plan


@dataclass
class FaultServer:
    """Answers on ``url`` as ``script`` says until closed.

    Chat requests without a picture are probes, answered as ``probe`` says; without ``probe`` they too are scripted.

    ``models`` None has no list of models, and a Behaviour has that there; with ``key`` other requests get 401.
    """

    script: Callable[[Asked], Behaviour] = lambda asked: answer()
    probe: Callable[[], Behaviour] | None = lambda: answer("fine")
    models: tuple[str, ...] | Behaviour | None = (MODEL,)
    key: str | None = None
    asked: Counter[str | None] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    probes: int = 0
    at_once: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connections: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.open()

    @property
    def first(self) -> str | None:
        """The picture that was asked about first."""
        return next(iter(self.asked))

    @property
    def calls(self) -> int:
        """Chat requests with a picture so far."""
        return len(self.times)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def open(self) -> None:
        """Listen; again on the same port after ``die``."""
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20))
        self.port = self._server.sockets[0].getsockname()[1]

    def die(self) -> None:
        """Refuse connections and drop those there are, as a killed process does."""
        self._run(self._drop())

    def close(self) -> None:
        if not self._loop.is_closed():
            self.die()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _drop(self) -> None:
        self._server.close()
        for writer in self._connections:
            writer.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._connections.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                self.at_once += 1
                try:
                    await self._behave(self._behaviour(head.split(" ")[1], headers, content), writer)
                finally:
                    self.at_once -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(writer)

    def _behaviour(self, path: str, headers: dict[str, str], content: bytes) -> Behaviour:
        if self.key is not None and headers.get("authorization") != f"bearer {self.key}":
            return error(401, f"Incorrect API key provided: {headers.get('authorization')}")
        if path == "/v1/models":
            if self.models is None:
                return error(404)
            if isinstance(self.models, Behaviour):
                return self.models
            return json_body({"object": "list", "data": [{"id": name} for name in self.models]})
        if path != "/v1/chat/completions":
            return error(404, f"no such path: {path}")
        body = json.loads(content)
        address = _address(body)
        if address is None and self.probe is not None:
            self.probes += 1
            return self.probe()
        image = None if address is None else hashlib.sha256(address.encode()).hexdigest()
        self.asked[image] += 1
        self.bodies.append(body)
        self.times.append(self._loop.time())
        return self.script(Asked(image, self.asked[image], body))

    async def _behave(self, behaviour: Behaviour, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(behaviour.delay)
        if behaviour.connection == "reset":
            raise ConnectionResetError
        status = f"{behaviour.status} {REASONS.get(behaviour.status, 'Status')}"
        named = "".join(f"{name}: {value}\r\n" for name, value in behaviour.headers)
        head = f"HTTP/1.1 {status}\r\n{named}content-length: {len(behaviour.body)}\r\n\r\n".encode()
        if behaviour.connection == "stall":
            writer.write(head)
            await asyncio.sleep(3600)
        elif behaviour.connection == "drip":
            writer.write(head)
            for byte in behaviour.body:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)
        elif behaviour.connection == "half":
            writer.write(head + behaviour.body[: len(behaviour.body) // 2])
            await writer.drain()
            writer.close()
            raise ConnectionResetError
        else:
            writer.write((head + behaviour.body) * (2 if behaviour.connection == "twice" else 1))
            await writer.drain()


def _address(body: dict[str, Any]) -> str | None:
    for message in body["messages"]:
        for item in message["content"] if isinstance(message["content"], list) else []:
            if item["type"] == "image_url":
                return str(item["image_url"]["url"])
    return None
