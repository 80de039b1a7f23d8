"""A JSON text read value by value, so that a list of any length passes through little memory."""

import json
import re
from collections.abc import Iterator
from typing import IO, Any

BLOCK_CHARACTERS = 1 << 20
MAX_VALUE_CHARACTERS = 1 << 24
SPACES = " \t\r\n"
# What was read may end within a number, of which a shorter one was understood.
NUMBER_MAY_GO_ON = re.compile(r"[-+.0-9eE]*\Z")


class JsonStream:
    """What the json module would read from ``file``, one value at a time.

    Every method raises ValueError where the text is cut off or malformed, or one value exceeds ``max_value``
    characters.
    """

    def __init__(self, file: IO[str], max_value: int = MAX_VALUE_CHARACTERS) -> None:
        self._file, self._max_value = file, max_value
        self._decoder = json.JSONDecoder()
        self._text, self._place, self._ended = "", 0, False

    def peek(self) -> str:
        """The next character that is no space, left where it is; empty at the end."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in SPACES:
                self._place += 1
            if self._place < len(self._text) or self._ended:
                return self._text[self._place : self._place + 1]
            self._read(BLOCK_CHARACTERS)

    def take(self, expected: str) -> str:
        """Step over the next character, which must be one of ``expected``; returns it."""
        found = self.peek()
        if not found or found not in expected:
            raise ValueError(f"expected {' or '.join(expected)}, found {found or 'the end'}")
        self._place += 1
        return found

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        block = BLOCK_CHARACTERS
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                if self._ended or len(self._text) - self._place >= self._max_value:
                    raise ValueError(str(error)) from None
            else:
                if end - self._place > self._max_value:
                    raise ValueError(f"a value of more than {self._max_value:,} characters")
                if self._ended or not NUMBER_MAY_GO_ON.match(self._text, end):
                    self._place = end
                    return value
            self._read(block)
            block *= 2  # keeps the repeated attempts at one very long value linear in its length

    def items(self) -> Iterator[Any]:
        """The items of the list that comes next."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def object_keys(self) -> Iterator[str]:
        """The keys of the object that comes next; the caller takes each key's value before asking for another key."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise ValueError(f"expected a key, found {key!r}")
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return

    def finish(self) -> None:
        """Raise ValueError unless nothing but space is left."""
        if self.peek():
            raise ValueError(f"something follows the end: {self.peek()}")

    def _read(self, characters: int) -> None:
        more = self._file.read(characters)
        self._ended = not more
        self._text, self._place = self._text[self._place :] + more, 0
