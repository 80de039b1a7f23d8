"""What a command of the data half costs, by the kernel's account of its process."""

import os
import sys
import time
from typing import NamedTuple


class Cost(NamedTuple):
    """Wall seconds, processor seconds and peak MiB."""

    seconds: float
    processor_seconds: float
    peak_mib: float


def run_data_command(arguments: list[str]) -> Cost:
    """``pfcvr-data`` with ``arguments``, start-up included; ends the benchmark when it fails."""
    command = [sys.executable, "-c", "from pfcvr.cli import data_main; data_main()", *arguments, "--json"]
    started = time.perf_counter()
    child = os.posix_spawn(
        command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"failed: pfcvr-data {' '.join(arguments)}")
    return Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
