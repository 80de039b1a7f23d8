"""Requests to an OpenAI-compatible endpoint: many at a time, each answered, refused with a reason, or the run stopped.

One event loop in a thread of its own does all the waiting, so a request has a deadline as a whole (a server that
drips bytes cannot hold it open) and everything under way can be cancelled at once. Callers are ordinary threads.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

import httpx2

from pfcvr.errors import PfcvrError, StageStopped
from pfcvr.pipeline.captioners.chat_reply import Remedy, Reply, Trouble, read_reply
from pfcvr.pipeline.captioners.concurrency import Slots
from pfcvr.pipeline.captioners.endpoint import LARGEST_ANSWER, http_client, whole_body, without_key

SECONDS_AVOIDED = 5.0  # that a server which failed is spared while others answer
LONGEST_PAUSE = 600.0  # seconds that a server may ask us to wait; more ends the run
UNREACHABLE = "unreachable"  # the reason where no server listens: never a row's fault
CONTINUE = "rows without an answer stay pending, run the same command to continue"

Result = TypeVar("Result")
Keep = Callable[[Reply], None]


def forget(reply: Reply) -> None:
    """Keep nothing."""


@dataclass(frozen=True)
class Retries:
    """A trouble that may pass is tried ``tries`` times; waits between double, less up to a half by chance.

    After that the server is asked something trivial. Where that is answered, the request is sent once more, and is at
    fault if it fails again; where nothing is answered for ``patience``, the server is dead. A server that comes back
    gets the request anew, but after ``outages`` of them with nothing else in flight: what ends the server then is this
    request, and no other is blamed for it. All times in seconds.
    """

    tries: int = 4
    outages: int = 2
    first_wait: float = 0.5
    longest_wait: float = 20.0
    patience: float = 120.0

    def wait(self, number: int) -> float:
        """Seconds before trying again after the ``number``-th failure, from 1."""
        return min(self.longest_wait, self.first_wait * 2.0 ** min(number - 1, 30)) * random.uniform(0.5, 1.0)


@dataclass(frozen=True)
class ClientSettings:
    """``timeout`` (s) is for one request, from its first byte to the last of its answer."""

    base_urls: Sequence[str]
    model: str
    concurrency: int = 64
    timeout: float = 120.0
    retries: Retries = Retries()


@dataclass(frozen=True)
class Answered:
    """A reply, after how many requests, and the seconds that the last of them took."""

    reply: Reply
    tries: int
    seconds: float


class RequestFailed(Exception):
    """This one request will not be answered, while others are; ``reason`` is one word for counting."""

    def __init__(self, trouble: Trouble, tries: int) -> None:
        super().__init__(f"{trouble.detail} ({trouble.reason})")
        self.reason, self.detail, self.tries = trouble.reason, trouble.detail, tries


@dataclass
class _Server:
    """One of several equal servers. After a failure the others are asked for a while, as long as they do better."""

    url: str
    in_flight: int = 0
    avoided_until: float = float("-inf")


class ChatClient:
    """Asks the chat completions of one or several equal servers. ``ask`` may be called from any number of threads.

    ``probe`` is the body of a small request with the parameters of the real ones: it tells a dead server from an
    impossible request. ``key`` is sent as bearer token and never shown.
    """

    def __init__(self, settings: ClientSettings, probe: bytes, key: str | None = None) -> None:
        self._settings, self._retries, self._probe, self._key = settings, settings.retries, probe, key
        self.slots = Slots(settings.concurrency)
        self._servers = [_Server(f"{url}/chat/completions") for url in settings.base_urls]
        self._stopped: PfcvrError | None = None
        self._good_answers = 0
        self._unreachable_at = float("-inf")
        self._quiet_since = 0.0
        self._recovery: asyncio.Task[bool] | None = None
        self._under_way: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat-client", daemon=True)
        self._thread.start()
        self._http = self._wait(self._open())

    def ask(self, body: bytes, keep: Keep = forget) -> Answered:
        """The answer to the chat request ``body``, given to ``keep`` before another request takes its place.

        So of all answers that were paid for, a kill loses at most those in flight; ``keep`` runs in the event loop.
        Raises RequestFailed for a request that cannot be answered, and StageStopped once the run is stopped: the
        server is dead, refuses everything, or somebody called ``stop``.
        """
        return self._wait(self._cancellable(self._ask(body, keep)))

    def live(self) -> str:
        """Requests in flight and the places for them, for the progress line."""
        return f"{self.slots.in_flight} of {int(self.slots.limit)} in flight"

    def stop(self, error: PfcvrError) -> None:
        """End all requests under way, and all to come, with ``error``; the first error stays."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop, error)

    def close(self) -> None:
        """End everything and free the connections."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError:
            raise self._stopped or StageStopped(f"the client was closed; {CONTINUE}") from None

    async def _cancellable(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._stopped is not None:
            work.close()
            raise self._stopped
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            return await work
        finally:
            self._under_way.discard(task)

    async def _open(self) -> httpx2.AsyncClient:
        self._quiet_since = self._loop.time()
        return http_client(self._settings.base_urls[0], self._key, self._settings.concurrency)

    async def _shut(self) -> None:
        self._stop(StageStopped(f"the client was closed; {CONTINUE}"))
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._http.aclose()

    def _stop(self, error: PfcvrError) -> None:
        self._stopped = self._stopped or error
        for task in self._under_way - {asyncio.current_task()}:
            task.cancel()

    async def _ask(self, body: bytes, keep: Keep) -> Answered:
        tries = failures = outages = 0
        since = self._loop.time()
        while True:
            tries += 1
            alone = outages >= self._retries.outages
            outcome, seconds = await self._send(body, keep, alone)
            if isinstance(outcome, Reply):
                return Answered(outcome, tries, seconds)
            if outcome.remedy is Remedy.STOP:
                outcome = await self._as_fault_of_this_request(outcome)
            if outcome.remedy is Remedy.REJECT:
                await self._check_that_others_are_answered(outcome)
                raise RequestFailed(outcome, tries)
            if outcome.remedy is Remedy.SLOWER:
                await self._slow_down(outcome, tries)
                continue
            failures += 1
            if failures < self._retries.tries and not alone:
                await asyncio.sleep(self._retries.wait(failures))
                continue
            well = await self._server_is_well(outcome)
            if outcome.reason == UNREACHABLE or not alone and (not well or self._unreachable_at > since):
                failures, outages, since = 0, outages + 1, self._loop.time()
                await asyncio.sleep(self._retries.wait(outages))
            elif alone or failures > self._retries.tries:
                raise RequestFailed(outcome, tries)

    async def _send(self, body: bytes, keep: Keep, alone: bool) -> tuple[Reply | Trouble, float]:
        """One request as soon as there is a place for it: what came of it, and the seconds from sending to the end."""
        taken_at = await self.slots.acquire(alone)
        try:
            outcome = await self._post(body)
            if isinstance(outcome, Reply):
                keep(outcome)
            elif alone and outcome.remedy is Remedy.AGAIN:
                await self._recover(outcome)  # before another meets a server that is about to end, and is blamed for it
        finally:
            self.slots.release()
        if isinstance(outcome, Reply):
            self._good_answers += 1
            self._quiet_since = self._loop.time()
            self.slots.succeeded()
        elif outcome.remedy is Remedy.SLOWER or outcome.reason == "timeout":
            self.slots.overloaded(taken_at)
        return outcome, self._loop.time() - taken_at

    async def _post(self, body: bytes) -> Reply | Trouble:
        now = self._loop.time()
        server = min(self._servers, key=lambda server: (server.avoided_until > now, server.in_flight))
        server.in_flight += 1
        try:
            async with asyncio.timeout(self._settings.timeout):
                outcome = await self._exchange(server.url, body)
        except TimeoutError:
            outcome = Trouble(Remedy.AGAIN, "timeout", f"no whole answer within {self._settings.timeout:g} s")
        except httpx2.RemoteProtocolError as error:
            outcome = Trouble(Remedy.AGAIN, "broken_answer", f"the answer broke off: {error}")
        except (httpx2.HTTPError, OSError) as error:
            what = str(error) or type(error).__name__
            if isinstance(error, httpx2.ConnectError):
                self._unreachable_at = self._loop.time()
                outcome = Trouble(Remedy.AGAIN, UNREACHABLE, f"no connection: {what}")
            else:
                outcome = Trouble(Remedy.AGAIN, "connection_failed", f"the connection broke: {what}")
        finally:
            server.in_flight -= 1
        if isinstance(outcome, Reply):
            server.avoided_until = float("-inf")
            return outcome
        if outcome.remedy is not Remedy.REJECT:
            server.avoided_until = self._loop.time() + SECONDS_AVOIDED
        return replace(outcome, detail=without_key(outcome.detail, self._key))

    async def _exchange(self, url: str, body: bytes) -> Reply | Trouble:
        async with self._http.stream("POST", url, content=body) as response:
            content = await whole_body(response)
        if content is None:
            return Trouble(Remedy.AGAIN, "broken_answer", f"the answer is larger than {LARGEST_ANSWER:,} bytes")
        outcome = read_reply(response.status_code, response.headers, content, self._settings.model)
        if isinstance(outcome, Trouble) and self._key is not None:
            # Before its words are cut short, which might leave a part of the key.
            harmless = content.replace(self._key.encode(), b"***")
            return read_reply(response.status_code, response.headers, harmless, self._settings.model)
        return outcome

    async def _slow_down(self, trouble: Trouble, tries: int) -> None:
        """Wait as long as an overloaded server asks for, or a little longer each time; end the run out of patience."""
        now = self._loop.time()
        if trouble.wait is not None and trouble.wait > LONGEST_PAUSE:
            self._end(f"asks to wait {trouble.wait:,.0f} s before the next request ({trouble.detail})")
        if now > self._quiet_since + self._retries.patience:
            self._end(f"has refused every request for {now - self._quiet_since:,.0f} s ({trouble.detail})")
        if trouble.wait is not None:
            self._quiet_since = max(self._quiet_since, self.slots.pause(trouble.wait))
        else:
            await asyncio.sleep(self._retries.wait(tries))

    async def _as_fault_of_this_request(self, trouble: Trouble) -> Trouble:
        """What makes an end of a server that never answered may be about one picture, as a gateway's filter is."""
        ends = self._good_answers == 0 or trouble.reason == "quota_used_up"
        if ends or not isinstance(await self._post(self._probe), Reply):
            self._end(self._sentence(trouble))
        return replace(trouble, remedy=Remedy.AGAIN, reason="request_refused")

    async def _check_that_others_are_answered(self, trouble: Trouble) -> None:
        """End the run where the server refuses not this one request but any with these parameters."""
        if self._good_answers == 0:
            outcome = await self._post(self._probe)
            if isinstance(outcome, Trouble) and outcome.remedy is Remedy.REJECT:
                self._end(f"refuses what is asked, whatever the image ({outcome.detail}); correct the prompt file")

    async def _server_is_well(self, trouble: Trouble) -> bool:
        """True when the server answers the probe at once, False when it had to be waited for; rows wait together."""
        if self._recovery is None or self._recovery.done():
            self._recovery = self._loop.create_task(self._cancellable(self._recover(trouble)))
        return await asyncio.shield(self._recovery)

    async def _recover(self, trouble: Trouble) -> bool:
        began = self._loop.time()
        probes = 0
        while not isinstance(await self._post(self._probe), Reply):
            probes += 1
            silent = self._loop.time() - began
            if silent > self._retries.patience:
                self._end(f"has answered nothing for {silent:,.0f} s ({trouble.reason}: {trouble.detail})")
            await asyncio.sleep(self._retries.wait(probes))
        self._quiet_since = self._loop.time()
        return probes == 0

    def _sentence(self, trouble: Trouble) -> str:
        if trouble.reason == "key_refused":
            known = "the key in OPENAI_API_KEY is refused" if self._key else "a key is needed: set OPENAI_API_KEY"
            return f"answers {trouble.detail}, {known}"
        if trouble.reason == "not_served":
            return f"has no chat completions for the model '{self._settings.model}' ({trouble.detail})"
        return f"answers no more ({trouble.reason}: {trouble.detail})"

    def _end(self, what: str) -> NoReturn:
        """Stop everything; ``what`` says what the server does."""
        error = StageStopped(f"{' and '.join(self._settings.base_urls)}: the server {what}; {CONTINUE}")
        self._stop(error)
        raise error
