"""The label files of VeRi-776: XML that declares GB2312, which the standard parser refuses (formats, section 2.3)."""

import codecs
from pathlib import Path
from typing import Any
from xml.parsers import expat

from pfcvr.pipeline.sources.text_lines import text_encoding

BLOCK_BYTES = 1 << 16


class BrokenXml(Exception):
    """The file cannot be read beyond ``line``."""

    def __init__(self, line: int, detail: str) -> None:
        super().__init__(f"line {line}: {detail}")
        self.line, self.detail = line, detail


def read_items(path: Path) -> tuple[list[dict[str, str]], BrokenXml | None]:
    """The attributes of every ``Item``, and what ended the reading early.

    The text is decoded here, so the declared encoding does not matter. A document type declaration, the home of entity
    bombs, ends the reading.
    """
    items: list[dict[str, str]] = []
    parser = expat.ParserCreate("utf-8")

    def refuse(*_: Any) -> None:
        raise BrokenXml(parser.CurrentLineNumber, "it has a document type declaration, which labels never need")

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "Item":
            items.append(attributes)

    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    decoder = codecs.getincrementaldecoder(text_encoding(path))(errors="replace")
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                parser.Parse(decoder.decode(block).encode())
            parser.Parse(decoder.decode(b"", final=True).encode(), True)
    except expat.ExpatError as error:
        return items, BrokenXml(error.lineno, expat.errors.messages[error.code])
    except BrokenXml as error:
        return items, error
    return items, None
