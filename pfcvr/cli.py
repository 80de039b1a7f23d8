"""Entry points of ``pfcvr-data`` and ``pfcvr``: run a command, turn an error into one sentence and an exit code.

Exit codes: 0 done; 1 refused, stopped, or nothing kept; 2 usage; 130 Ctrl-C. Nothing heavy is imported here: each
command imports what it needs in its body.
"""

import os
import sqlite3
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from pfcvr.cli_data import app as data_app
from pfcvr.cli_data_out import app as data_out_app
from pfcvr.cli_data_people import app as data_people_app
from pfcvr.cli_data_reading import app as data_reading_app
from pfcvr.cli_model import app as model_app
from pfcvr.cli_output import json_text, printable
from pfcvr.cli_push import data_app as data_push_app
from pfcvr.cli_push import model_app as model_push_app
from pfcvr.cli_study import app as study_app
from pfcvr.errors import PfcvrError, first_line
from pfcvr.files import DISK_FULL

USAGE, INTERRUPTED = 2, 130
TEMPORARY_FULL = (
    "the disk for temporary files is full; free some space there, or set SQLITE_TMPDIR to a folder on another disk, "
    "and run the same command to continue"
)

data_app.add_typer(data_people_app)
data_app.add_typer(data_reading_app)
data_app.add_typer(data_out_app)
data_app.add_typer(data_push_app)
model_app.add_typer(study_app)
model_app.add_typer(model_push_app)


def _tell_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"{context.info_name} {version('pfcvr')}")
        raise typer.Exit


@data_app.callback()
@model_app.callback()
def _program(
    wants_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """What every program takes before its command."""


def data_main() -> None:
    """The console script ``pfcvr-data``."""
    sys.exit(run(data_app, "pfcvr-data", sys.argv[1:]))


def model_main() -> None:
    """The console script ``pfcvr``."""
    sys.exit(run(model_app, "pfcvr", sys.argv[1:]))


def run(app: typer.Typer, program: str, arguments: Sequence[str]) -> int:
    """Run ``program`` with ``arguments`` and return its exit code; with ``--json`` an error is one object on stdout."""
    as_json, debug = "--json" in arguments, "--debug" in arguments
    if not arguments:
        app(["--help"], prog_name=program, standalone_mode=False)
        return USAGE
    try:
        result = app(list(arguments), prog_name=program, standalone_mode=False)
    except PfcvrError as error:
        if debug:
            print(printable(traceback.format_exc()), end="", file=sys.stderr)
        return _report(str(error), type(error).__name__, error.exit_code, as_json)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in DISK_FULL:
            return _own_fault(error, program, as_json, debug)
        if debug:
            print(printable(traceback.format_exc()), end="", file=sys.stderr)
        return _report(_system_refusal(error), "SystemRefusal", 1, as_json)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            return _own_fault(error, program, as_json, debug)
        return _report(TEMPORARY_FULL, "StageStopped", 1, as_json)
    except Exception as error:
        # Typer carries its own copy of click and exports no base class of its usage errors: they are known by shape.
        if not hasattr(error, "format_message"):
            return _own_fault(error, program, as_json, debug)
        asked = getattr(getattr(error, "ctx", None), "command_path", program)
        sentence = f"{error.format_message()} See: {asked} --help"
        return _report(sentence, "UsageError", int(getattr(error, "exit_code", USAGE)), as_json)
    if result == INTERRUPTED:  # which Typer also returns when Ctrl-C reached it first
        return _report("stopped by Ctrl-C; run the same command to continue", "Interrupted", INTERRUPTED, as_json)
    return result if isinstance(result, int) else 0


def _own_fault(error: Exception, program: str, as_json: bool, debug: bool) -> int:
    """Tell of an exception that nobody foresaw; its trace is for those who ask for it."""
    if debug:
        print(printable(traceback.format_exc()), end="", file=sys.stderr)
    hint = "the trace is above" if debug else "--debug shows the trace"
    sentence = (
        f"{type(error).__name__}: {' '.join(first_line(error).split())}; this is a defect of {program} and not of your "
        f"command, please report it: {hint}"
    )
    return _report(sentence, "InternalError", 1, as_json)


def _system_refusal(error: OSError) -> str:
    """What the system would not do, and where."""
    what = (error.strerror or str(error)).lower()
    if error.errno in DISK_FULL:
        return f"{error.filename or 'disk'}: {what}; free some space and run the same command again"
    return f"{error.filename}: {what}; check that it is the path you mean and that you may read and write there"


def _report(sentence: str, kind: str, exit_code: int, as_json: bool) -> int:
    if as_json:
        print(json_text({"error": {"kind": kind, "message": sentence, "exit_code": exit_code}}))
    else:
        print(printable(f"error: {sentence}"), file=sys.stderr)
    return exit_code
