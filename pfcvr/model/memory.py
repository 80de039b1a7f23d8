"""How much memory a process on Linux may still take: what the machine has left, or what its control groups leave it.

A container is such a group. The machine's own account knows nothing of the group's limit, beyond which a process is
killed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class _Names:
    """What a version of control groups calls the files of a group (Linux: cgroups(7)), and in ``memory.stat`` the
    cached files that are dropped before anything is killed."""

    limit: str
    used: str
    droppable: str


VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = _Names("memory.max", "memory.current", "inactive_file")


def kernel_bytes(file: Path, name: str) -> int:
    """A number of the kernel's account of memory, in bytes (Linux: proc_pid_status, proc_meminfo)."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def available_bytes(root: Path = Path("/")) -> int:
    """What this process may take beside what it has, in bytes; ``root`` is where proc and sys are mounted."""
    return min([kernel_bytes(root / "proc/meminfo", "MemAvailable"), *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    """What is left in each group with a limit that this process is in, directly or through a group within.

    Inside a container the path may be the host's, which leads nowhere; the mount itself then shows the group.
    """
    account, mount = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in account.read_text().splitlines() if account.exists() else ():
        _, controllers, path = line.split(":", maxsplit=2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, names = (mount / "memory", VERSION_1) if controllers else (mount, VERSION_2)
        group = PurePosixPath(path).relative_to("/")
        for place in (group, *group.parents):
            yield from _left_in(base / place, names)


def _left_in(group: Path, names: _Names) -> Iterator[int]:
    limit = group / names.limit
    if not limit.exists() or (most := limit.read_text().strip()) == "max":
        return
    used = int((group / names.used).read_text())
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    yield max(int(most) - used + int(stat[names.droppable]), 0)
