"""Lines of small text files whose encoding is not known beforehand."""

import codecs
from collections.abc import Iterator
from pathlib import Path

BLOCK_BYTES = 1 << 20
UNDECODABLE = "\ufffd"


def text_encoding(path: Path) -> str:
    """``utf-8`` where the whole file is valid UTF-8 (with or without a byte order mark), else ``gb18030``."""
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
