"""A process of ours that never outlives us: it ends on ``stop``, on Ctrl-C, and when we are killed with -9.

It runs under ``guardian.py``, in a session of its own, so that the terminal's Ctrl-C reaches only us. It inherits no
open file but the three it is given, hence neither the lock of a workspace nor a connection.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

GUARDIAN = Path(__file__).with_name("guardian.py")
SECONDS_TO_STOP = 20.0
LAST_BYTES = 65536


class ChildProcess:
    """``command`` running; ``stdin`` and ``stdout`` are binary pipes where ``piped``, everything else goes to ``log``.

    Where ``piped`` is False, the command reads nothing and its output goes to ``log`` too. A command that cannot be
    started at all ends with code 127 and a line in ``log``.
    """

    def __init__(
        self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, piped: bool = False
    ) -> None:
        lifeline, self._held = os.pipe()
        self._stopping = threading.Lock()
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log, self._log_start = log, 0
        try:
            with log.open("ab") as output:
                self._log_start = output.tell()
                self._process = subprocess.Popen(
                    # Isolated mode: no module of this folder can stand in for one of the standard library.
                    [sys.executable, "-I", str(GUARDIAN), str(lifeline), str(os.getpid()), *command],
                    pass_fds=(lifeline,),
                    stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if piped else output,
                    stderr=output,
                    env=None if env is None else dict(env),
                    start_new_session=True,
                )
        finally:
            os.close(lifeline)

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def ended(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs."""
        code = self._process.poll()
        return None if code is None else code - 256 if code > 128 else code

    def stop(self) -> None:
        """End the process and all that it started; nothing happens when it has ended already.

        Any thread may call it; one that waits for a line of the process then finds the end of it.
        """
        with self._stopping:
            if self._held >= 0:
                os.close(self._held)
                self._held = -1
        try:
            self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def last_line(self, containing: tuple[str, ...] = ("",), without: tuple[str, ...] = ()) -> str:
        """The last line that this process wrote to the log and that holds one of ``containing``, or nothing.

        Lines that hold one of ``without``, and what earlier processes left in the same file, are not looked at. At most
        300 characters.
        """
        try:
            with self._log.open("rb") as file:
                file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - LAST_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        found = (
            line.strip()
            for line in reversed(lines)
            if line.strip() and any(word in line for word in containing) and not any(word in line for word in without)
        )
        return next(found, "")[:300]
