"""How many requests may be in flight: additive increase, multiplicative decrease, and pauses that a server asks for."""

import asyncio
from collections import deque


class Slots:
    """Up to ``most`` places for requests in flight, fewer after a server said that it is overloaded.

    As in TCP, each round of good answers adds one place and each round with a refusal halves them; requests that were
    already under way when the places were halved do not halve them again. A request that wants to be alone waits until
    nothing is in flight, and nothing else starts from then until it is done. Used from one event loop only.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._waiting_alone: deque[asyncio.Future[None]] = deque()
        self._one_is_alone = False
        self._closed_until = 0.0
        self._last_cut = float("-inf")

    async def acquire(self, alone: bool = False) -> float:
        """Wait for a place; returns the loop's time at which it was taken."""
        loop = asyncio.get_running_loop()
        while True:
            pause = self._closed_until - loop.time()
            if pause > 0:
                await asyncio.sleep(pause)
            elif self._has_place(alone):
                self.in_flight += 1
                self._one_is_alone = alone
                return loop.time()
            else:
                turn = loop.create_future()
                (self._waiting_alone if alone else self._waiting).append(turn)
                await turn

    def release(self) -> None:
        """Give a place back and wake who may have it."""
        self.in_flight -= 1
        self._one_is_alone = False
        if _drop_cancelled(self._waiting_alone):
            if self.in_flight == 0:
                self._waiting_alone.popleft().set_result(None)
            return
        for _ in range(int(self.limit) - self.in_flight):
            if not _drop_cancelled(self._waiting):
                return
            self._waiting.popleft().set_result(None)

    def _has_place(self, alone: bool) -> bool:
        if alone or self._one_is_alone:
            return self.in_flight == 0
        return self.in_flight < int(self.limit) and not _drop_cancelled(self._waiting_alone)

    def succeeded(self) -> None:
        """A good answer came: room for ``1 / limit`` of a request more."""
        self.limit = min(float(self.most), self.limit + 1 / self.limit)

    def overloaded(self, taken_at: float) -> None:
        """The request that took its place at ``taken_at`` was refused for load: half the places, at least one."""
        if taken_at > self._last_cut:
            self._last_cut = asyncio.get_running_loop().time()
            self.limit = max(1.0, self.limit / 2)

    def pause(self, seconds: float) -> float:
        """Give out no place for ``seconds`` from now; returns the loop's time at which the pause ends."""
        self._closed_until = max(self._closed_until, asyncio.get_running_loop().time() + seconds)
        return self._closed_until


def _drop_cancelled(waiting: deque[asyncio.Future[None]]) -> bool:
    """Whether anybody waits, once those who gave up are out of the queue."""
    while waiting and waiting[0].done():
        waiting.popleft()
    return bool(waiting)
