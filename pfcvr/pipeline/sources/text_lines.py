"""Lines of small text files whose encoding is not known beforehand."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from pfcvr.errors import SourceError

BLOCK_BYTES = 1 << 20
UNDECODABLE = "\ufffd"


def is_utf_16(path: Path) -> bool:
    """Whether the file begins with the byte order mark of UTF-16, as what Windows tools call Unicode does."""
    with path.open("rb") as file:
        return file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def refuse_utf_16(path: Path) -> None:
    """Raises SourceError where the file is text in UTF-16, of which a reader of UTF-8 would understand nothing."""
    if is_utf_16(path):
        raise SourceError(f"{path}: is text in UTF-16; save it as UTF-8, then run the same command again")


def text_encoding(path: Path) -> str:
    """``utf-8`` where the whole file is valid UTF-8 (with or without a byte order mark), else ``gb18030``.

    Raises SourceError for UTF-16.
    """
    refuse_utf_16(path)
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while block := file.read(BLOCK_BYTES):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "gb18030"
    return "utf-8"


def text_lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank, stripped; bytes that do not decode become U+FFFD.

    Line breaks are found in the bytes: in UTF-8 and GB18030 alike no multi-byte character holds one.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.decode(encoding, errors="replace")
            if number == 1:
                text = text.removeprefix("\ufeff")
            if text.strip():
                yield number, text.strip()
