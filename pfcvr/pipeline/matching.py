"""Which file of a reader's copy is the image that an annotation means: by its bytes, else by its look and its name.

A look alone decides nothing, since two white vans look alike to a hash of 64 bits. So a file of other bytes is the
image where it lies at the annotated path, or where its name fits no second image and no second file could be meant.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from sqlite3 import Connection
from typing import Any

from pfcvr.pipeline.images import UnreadableImage, open_rgb
from pfcvr.pipeline.own_copy import Agreement, Candidate, Names, OwnCopy, names_of
from pfcvr.pipeline.perceptual import REENCODED_BITS, bits_apart, difference_hash
from pfcvr.scratch import temporary_tables

STATUSES = ("ok", "reencoded", "ambiguous", "different", "missing", "damaged")
SHOWN = 3


@dataclass(frozen=True)
class Found:
    """What the reader's copy has of one image; ``pixels`` where they can stand for it."""

    status: str
    file: str | None = None
    detail: str = ""
    pixels: bytes | None = None


@dataclass(frozen=True)
class _Alike:
    """A file that looks the same: as it would be reported, and the hash of its bytes."""

    candidate: Candidate
    found: Found
    sha256: str


class Matcher:
    """Finds images in ``copy``. ``annotated`` yields the names of every annotated image; asked for once, if at all."""

    def __init__(self, copy: OwnCopy, annotated: Callable[[], Iterable[Names]]) -> None:
        self._copy, self._annotated = copy, annotated

    def find(self, row: dict[str, Any]) -> Found:
        """What the copy has of the image that ``row`` describes."""
        candidates = self._copy.candidates(names_of(row["image_id"], row["vehicle_id"], row["path"]))
        for candidate in candidates:
            if candidate.size == row["bytes"]:
                pixels = self._copy.read(candidate.path)
                if pixels is not None and hashlib.sha256(pixels).hexdigest() == row["sha256"]:
                    return Found("ok", candidate.path, pixels=pixels)
        looks = [self._look(row, candidate) for candidate in candidates]
        alike = [look for look in looks if isinstance(look, _Alike)]
        if alike:
            return self._decided(row, alike)
        unlike = [look for look in looks if isinstance(look, str)]
        return Found("different", candidates[0].path, unlike[0]) if unlike else Found("missing")

    def close(self) -> None:
        if "_bearers" in vars(self):
            self._bearers.close()

    def _look(self, row: dict[str, Any], candidate: Candidate) -> _Alike | str:
        """The file where it looks the same, with its pixels only where boxes and masks still fit them; else why not."""
        pixels = self._copy.read(candidate.path)
        if pixels is None:
            return "the file cannot be read, or is a link that leads out of the folder"
        try:
            width, height = open_rgb(pixels).size
        except UnreadableImage as problem:
            return problem.detail
        own = difference_hash(pixels)
        if own is None or row["dhash"] is None or (apart := bits_apart(own, row["dhash"])) > REENCODED_BITS:
            return "neither its bytes nor its picture are those annotated"
        sha256 = hashlib.sha256(pixels).hexdigest()
        detail = f"{apart} of 64 bits of the difference hash apart"
        if (width, height) == (row["width"], row["height"]):
            return _Alike(candidate, Found("reencoded", candidate.path, detail, pixels), sha256)
        wanted = f"{row['width']} x {row['height']}"
        detail += f"; {width} x {height} pixels, boxes and masks are for {wanted}"
        return _Alike(candidate, Found("reencoded", candidate.path, detail), sha256)

    def _decided(self, row: dict[str, Any], alike: list[_Alike]) -> Found:
        """The one of ``alike`` that is meant; else all of them, reported as ambiguous."""
        best = alike[0].candidate
        if best.agreement is Agreement.PATH:
            return alike[0].found
        own = [one for one in alike if one.candidate.agreement is best.agreement]
        why = self._doubt({one.sha256 for one in own}, {one.candidate.name for one in own}, best.agreement)
        if why is None:
            return own[0].found
        files = [one.candidate.path for one in own]
        shown = " and ".join(files[:SHOWN]) + (f" and {len(files) - SHOWN} more" if len(files) > SHOWN else "")
        return Found("ambiguous", files[0], f"looks like {shown}, but {why}; put the right file at {row['path']}")

    def _doubt(self, contents: set[str], names: set[str], agreement: Agreement) -> str | None:
        """Why a file that bears one of ``names`` may be another image's; None where nothing speaks for that."""
        if len(contents) > 1:
            return f"these are {len(contents)} pictures"
        for name in sorted(names):
            (images,) = self._bearers.execute("SELECT count(*) FROM name WHERE name = ?", (name,)).fetchone()
            if images > 1:
                return f"{images:,} annotated images may be called {name}"
            files = self._copy.count_of_stem(name) if agreement is Agreement.STEM else 1
            if files > 1:
                return f"{files:,} files are called {name}, none where the image lay"
        return None

    @cached_property
    def _bearers(self) -> Connection:
        """Every name of every annotated image."""
        names = temporary_tables("CREATE TABLE name (name TEXT); CREATE INDEX by_name ON name (name);")
        for image in self._annotated():
            names.executemany("INSERT INTO name VALUES (?)", ((name,) for name in image.every()))
        return names
