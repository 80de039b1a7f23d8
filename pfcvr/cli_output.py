"""What all commands share: the options that every command takes, and how a result is printed."""

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")]
WorkspaceDir = Annotated[Path, typer.Option("--workspace", "-w", metavar="DIR", help="The workspace folder.")]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run with other inputs made.")]
RetryReason = Annotated[
    str | None, typer.Option("--retry", metavar="REASON", help="Take up the rows rejected for this reason again.")
]
SeedNumber = Annotated[int, typer.Option("--seed", help="Seed of every random draw.")]


UNSEEN = ("Cc", "Cf", "Cs")
"""Categories of characters that steer a terminal, hide in a line or cannot be printed."""


def new_app(help_text: str) -> typer.Typer:
    """A Typer app that leaves errors to ``cli.run`` and prints plain help."""
    return typer.Typer(
        help=help_text,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def emit(result: dict[str, Any], text: str, as_json: bool) -> None:
    """Print ``result`` as one JSON object, or ``text`` for people; of a launcher's processes the first one prints."""
    if _is_first_process():
        print(json_text(result) if as_json else printable(text))


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def warn(sentences: Iterable[str]) -> None:
    """Print ``sentences`` to stderr, whatever stdout is asked to hold; of a launcher's processes the first one does."""
    for sentence in sentences if _is_first_process() else ():
        print(printable(f"warning: {sentence}"), file=sys.stderr)


def json_text(result: dict[str, Any]) -> str:
    """``result`` as one line of JSON that no terminal stumbles over."""
    return printable(json.dumps(result, ensure_ascii=False, default=str))


def printable(text: str) -> str:
    """``text`` with control and format characters but tabs and line breaks as ``\\uXXXX``, as JSON writes them."""
    return re.sub(r"[^\t\n -~]", _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    letter = found[0]
    if unicodedata.category(letter) not in UNSEEN:
        return letter
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def reasons_text(reasons: dict[str, int]) -> str:
    """``reason: count`` pairs, commonest first, in brackets; empty when there are none."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return " (" + ", ".join(f"{reason}: {count:,}" for reason, count in ordered) + ")" if ordered else ""
