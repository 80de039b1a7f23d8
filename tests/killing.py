"""A call in a child process that is killed with SIGKILL before its n-th change to a file; for scripts of their own,
since a process with threads, such as the one of the tests, is not forked.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link"}


def in_child(call: Callable[[], object], watched: Path, kill_before: int = 0) -> int:
    """Run ``call``; its exit code, negative where it was killed before change ``kill_before`` below ``watched``."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    changes = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal changes
        path = arguments[0] if arguments else None
        writes = event == "open" and isinstance(path, str) and bool(int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR))
        if (writes or event in CHANGES) and str(path).startswith(str(watched)):
            changes += 1
            if changes == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    call()
    os._exit(0)


def killed_at_every_change(prepare: Callable[[int], tuple[Callable[[], object], Path]], step: int = 1) -> Iterator[int]:
    """Kill a fresh call before change 1, 1 + ``step``, ...; after each kill run it again, then yield its number.

    ``prepare`` gives the call of that number and the folder it changes. Ends with the first call that is not killed.
    """
    for kill_before in itertools.count(1, step):
        call, watched = prepare(kill_before)
        code = in_child(call, watched, kill_before)
        assert code in (0, -signal.SIGKILL), code
        assert in_child(call, watched) == 0, kill_before
        yield kill_before
        if code == 0:
            return
