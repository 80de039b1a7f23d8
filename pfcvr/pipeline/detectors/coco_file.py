"""A COCO file as a stream: its three lists go item by item into a temporary SQLite file, whatever the order of keys."""

import json
import math
import re
import sqlite3
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import ijson

from pfcvr.errors import SourceError

REQUIRED_LISTS = ("images", "annotations", "categories")
BLOCK_BYTES = 1 << 16
QUOTE = ord(b'"')
BOM = b"\xef\xbb\xbf"
OPENING, CLOSING = ("start_map", "start_array"), ("end_map", "end_array")
# JSON has no NaN. An exponent that nobody writes stands for it on the way through the parser.
NOT_A_NUMBER, NOT_A_NUMBER_READ = b"7e77777", "7E+77777"
STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
NUMBER = rb"-?(?:Infinity|[0-9][0-9.eE+-]*)"
TOKEN = re.compile(STRING + rb"|NaN|" + NUMBER, re.DOTALL)
PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
ESCAPED = re.compile(PAIR + rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.", re.DOTALL)
CLOSED = re.compile(rb'(?:[^"]++|' + STRING + rb")*+", re.DOTALL)
# Text without any of these is the same in both dialects, and need not be taken apart.
UNUSUAL = re.compile(rb"\\u[dD]|NaN|Infinity|[eE][+-]?[0-9]{7}|[0-9]{640}")
LITERAL = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-"
# Where a token may begin that the next block goes on with.
BEGINNING = re.compile(rb'["A-Za-z0-9.+-]')


class ParserInput:
    """Bytes of ``file`` in the dialect that ijson reads as the json module reads the original.

    YAJL, under ijson, turns half a surrogate pair into a question mark, knows no NaN and no byte order mark, and an
    integer beyond Python's limit of digits ends the process. A half pair becomes U+0000, which is refused alike.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rest = file.read(len(BOM)).removeprefix(BOM)

    def read(self, size: int = -1) -> bytes:
        """Some more bytes, none at the end; ijson does not mind how many. Raises ValueError for an overlong integer."""
        if size == 0:  # how ijson asks whether this file is binary
            return b""
        block = BLOCK_BYTES
        while True:
            more = self._file.read(block)
            text = self._rest + more
            translated, used = _translated(text, final=not more)
            self._rest = text[used:]
            if translated or not more:
                return translated
            # Doubling keeps the repeated attempts at one very long string linear in its length.
            block *= 2


class CocoFile:
    """The lists of one COCO file, read back item by item in the order of the file.

    Raises SourceError for a file that is missing, no JSON, or lacks a list.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._db = database
        self._db.execute("CREATE TABLE item (list TEXT, number INTEGER, body TEXT, PRIMARY KEY (list, number))")
        try:
            with path.open("rb") as file:
                lists = self._read(file)
        except FileNotFoundError:
            raise SourceError(f"{path}: there is no such annotation file; check --annotations") from None
        except IsADirectoryError:
            raise SourceError(f"{path}: is a folder; give the COCO file itself with --annotations") from None
        except (ValueError, RecursionError, ijson.JSONError) as error:
            what = "".join(str(error).splitlines()[:1])
            raise SourceError(f"{path}: not readable as JSON ({what}); the file may be cut off, get it anew") from None
        for name in REQUIRED_LISTS:
            if name not in lists:
                raise SourceError(
                    f"{path}: not a COCO annotation file, it has no list '{name}'; expected {', '.join(REQUIRED_LISTS)}"
                )

    def items(self, name: str) -> Iterator[Any]:
        """The items of the list ``name``, whatever they are."""
        for (body,) in self._db.execute("SELECT body FROM item WHERE list = ? ORDER BY number", (name,)):
            yield json.loads(body)

    def _read(self, file: IO[bytes]) -> set[str]:
        """Keep the items of the required lists; returns which of them are there. Of equal keys the last one counts."""
        lists: set[str] = set()
        depth, number, is_object, key, current, builder = 0, 0, False, "", "", ijson.ObjectBuilder()
        for event, value in ijson.basic_parse(ParserInput(file)):
            depth -= event in CLOSING
            if depth == 0:
                is_object = is_object or event == "start_map"
            elif depth == 1 and event == "map_key":
                key = value
            elif depth == 1 and event not in CLOSING:
                current, number = "", 0
                if is_object and key in REQUIRED_LISTS:
                    self._db.execute("DELETE FROM item WHERE list = ?", (key,))
                    lists.discard(key)
                    if event == "start_array":
                        current = key
                        lists.add(key)
            elif depth >= 2 and current:
                builder.event(event, value)
                if depth == 2 and event not in OPENING and event != "map_key":
                    body = json.dumps(builder.value, default=_as_float)
                    self._db.execute("INSERT INTO item VALUES (?, ?, ?)", (current, number, body))
                    number, builder = number + 1, ijson.ObjectBuilder()
            depth += event in OPENING
        return lists


def _translated(text: bytes, final: bool) -> tuple[bytes, int]:
    """The whole tokens of ``text`` translated, and how many bytes of it they are."""
    if not UNUSUAL.search(text):
        kept = _whole(text, final)
        return text[:kept], kept
    pieces: list[bytes] = []
    place = 0
    for match in TOKEN.finditer(text):
        start, stop = match.span()
        goes_on = stop == len(text) and not final and text[start] != QUOTE
        if goes_on or b'"' in text[place:start]:
            break
        pieces += (text[place:start], _token(match.group()))
        place = stop
    beginning = None if final else BEGINNING.search(text, place)
    kept = len(text) if beginning is None else beginning.start()
    pieces.append(text[place:kept])
    return b"".join(pieces), kept


def _whole(text: bytes, final: bool) -> int:
    """How many bytes of ``text`` are whole tokens."""
    found = CLOSED.match(text)
    kept = len(text) if final or found is None else found.end()
    return len(text[:kept].rstrip(LITERAL)) if kept == len(text) and not final else kept


def _token(token: bytes) -> bytes:
    if token[:1] == b'"':
        return ESCAPED.sub(_escape, token) if b"\\u" in token else token
    if token == b"NaN":
        return NOT_A_NUMBER
    if token.endswith(b"Infinity"):
        return token.replace(b"Infinity", b"1e999")
    digits = token.lstrip(b"-")
    if digits.isdigit():
        limit = sys.get_int_max_str_digits()
        if 0 < limit < len(digits):
            raise ValueError(f"an integer of {len(digits)} digits, more than {limit}")
    elif b"e" in token or b"E" in token:
        try:
            return repr(float(token)).replace("inf", "1e999").encode()
        except ValueError:
            return token
    return token


def _escape(match: re.Match[bytes]) -> bytes:
    escape = match.group()
    return b"\\u0000" if len(escape) == 6 else escape


def _as_float(number: Decimal) -> float:
    return math.nan if str(number) == NOT_A_NUMBER_READ else float(number)
