"""Runs one command for a parent process and ends it, with all its children, when the parent ends in any way.

``python guardian.py LIFELINE PARENT COMMAND...``: LIFELINE is the read end of a pipe whose write end the parent alone
holds, PARENT its process id. Standard input, output and error go to the command; its exit code is returned. This file
is run as a program by ``child_process``, uses the standard library only, and must stay free of threads, since a parent
death signal is tied to the thread that started the child.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from types import FrameType
from typing import NoReturn

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_END = 10.0
PR_SET_PDEATHSIG = 1
CANNOT_START = 127


def main(arguments: list[str]) -> int:
    """Start the command, wait for it or for the parent's end, and leave nothing of it behind."""
    lifeline, parent, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    signal.signal(signal.SIGTERM, _leave)
    try:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_guardian)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return CANNOT_START
    try:
        while child.poll() is None and os.getppid() == parent and not _is_cut(lifeline):
            pass
    finally:
        _end_group(child)
    return child.returncode


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(-number)


def _die_with_guardian() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _is_cut(lifeline: int) -> bool:
    """Whether the parent's end of the pipe is closed; waits a moment for it."""
    readable, _, _ = select.select([lifeline], [], [], SECONDS_BETWEEN_LOOKS)
    return bool(readable)


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    """The whole process group, for the command may have started more processes."""
    _signal_group(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(SECONDS_TO_END)
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
