"""What a process may still take, by made-up accounts of machines and containers."""

from pathlib import Path

import pytest

from pfcvr.model.memory import available_bytes

MIB = 2**20
NO_LIMIT = 0x7FFFFFFFFFFFF000  # as version 1 writes it


def machine(root: Path, membership: str | None, groups: dict[str, tuple[object, int, int]]) -> Path:
    """A machine with 800 MiB left; ``groups`` are limit, use and droppable file cache in bytes by folder."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {2000 * 1024} kB\nMemAvailable: {800 * 1024} kB\n")
    if membership is not None:
        (root / "proc/self/cgroup").write_text(membership)
    for name, (limit, used, droppable) in groups.items():
        folder = root / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        if name.split("/")[0] == "memory":
            names = (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                f"inactive_file 0\ntotal_inactive_file {droppable}",
            )
        else:
            names = ("memory.max", "memory.current", f"anon 7\ninactive_file {droppable}\nactive_file {99 * MIB}")
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"{names[2]}\n")
    return root


@pytest.mark.parametrize(
    ("membership", "groups", "left"),
    [
        ("0::/", {}, 800),
        (None, {}, 800),
        ("0::/\n", {".": (500 * MIB, 300 * MIB, 0)}, 200),
        ("0::/\n", {".": (500 * MIB, 300 * MIB, 50 * MIB)}, 250),
        ("0::/\n", {".": ("max", 300 * MIB, 0)}, 800),
        ("0::/\n", {".": (5000 * MIB, 300 * MIB, 0)}, 800),
        ("0::/\n", {".": (500 * MIB, 501 * MIB, 0)}, 0),
        ("0::/user/job\n", {"user/job": ("max", 9, 0), "user": (500 * MIB, 400 * MIB, 0), "other": (9, 9, 0)}, 100),
        ("0::/user/job\n", {"user/job": (90 * MIB, 9 * MIB, 0), "user": (500 * MIB, 400 * MIB, 0)}, 81),
        ("0::/../of the host/abc\n", {".": (500 * MIB, 300 * MIB, 0)}, 200),
        ("4:memory:/\n1:cpu:/x\n0::/\n", {"memory": (500 * MIB, 300 * MIB, 50 * MIB)}, 250),
        ("4:cpu,memory:/docker/abc\n", {"memory": (500 * MIB, 300 * MIB, 0)}, 200),
        ("4:memory:/jobs/7\n", {"memory": (NO_LIMIT, 9, 0), "memory/jobs/7": (60 * MIB, 9 * MIB, 0)}, 51),
        ("3:cpuset:/\n", {"memory": (500 * MIB, 300 * MIB, 0)}, 800),
    ],
)
def test_what_is_left_is_the_least_that_the_machine_and_the_groups_leave(
    membership: str | None, groups: dict[str, tuple[object, int, int]], left: int, tmp_path: Path
) -> None:
    assert available_bytes(machine(tmp_path, membership, groups)) == left * MIB


def test_this_machine_has_memory_left_and_not_more_than_it_has() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert 0 < available_bytes() <= int(total.split()[1]) * 1024
