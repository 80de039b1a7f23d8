"""The stage contract: kill it anywhere, run it again, and the sealed bytes are those of an undisturbed run."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pfcvr.errors import LockedError, NothingKept, SealedError, StageStopped, UsageError, WorkspaceError
from pfcvr.pipeline.status import workspace_status
from pfcvr.records import Rejected, Selected
from pfcvr.stage import RunOptions, StagePlan, run_stage
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)


def keep_even(number: int) -> Selected | Rejected:
    key = f"v/{number:04d}"
    if number % 2:
        return Rejected(stage="select", subject=key, reason="odd")
    return Selected(image_id=key, vehicle_id="v")


def plan(count: int = 20, work=keep_even, **changes) -> StagePlan:
    values = {
        "name": "select",
        "kind": Selected,
        "settings": {"count": count},
        "inputs": {"import": "abc"},
        "rows": lambda: range(count),
        "key": lambda number: f"v/{number:04d}",
        "work": work,
        "total": count,
        "workers": 2,
        "normal_reasons": frozenset({"odd"}),
    }
    return StagePlan(**(values | changes))


def sealed_bytes(workspace: Workspace) -> dict[str, bytes]:
    files = sorted(workspace.folder("select").iterdir())
    return {file.name: file.read_bytes() for file in files if file.name != "telemetry.jsonl"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws", create=True)


def test_a_sealed_stage_holds_every_good_row_in_order_and_balances_its_books(workspace: Workspace) -> None:
    shuffled = plan(rows=lambda: [*range(10, 20), *range(10)])
    summary = run_stage(workspace, shuffled, QUIET)
    assert (summary.rows_in, summary.kept, summary.rejected, summary.reasons) == (20, 10, 10, {"odd": 10})
    kept = [record.image_id for record in workspace.records("select", Selected)]
    assert kept == [f"v/{number:04d}" for number in range(0, 20, 2)]
    assert [rejected.subject for rejected in workspace.rejected("select")] == [f"v/{n:04d}" for n in range(1, 20, 2)]


def test_running_a_sealed_stage_again_does_no_work(workspace: Workspace) -> None:
    run_stage(workspace, plan(), QUIET)
    before = sealed_bytes(workspace)

    def must_not_run(number: int) -> Selected:
        raise AssertionError("a sealed stage worked again")

    assert run_stage(workspace, plan(work=must_not_run), QUIET).already_done
    assert sealed_bytes(workspace) == before


def test_other_settings_are_refused_with_the_flag_that_allows_them(workspace: Workspace) -> None:
    run_stage(workspace, plan(20), QUIET)
    with pytest.raises(SealedError, match=r"count \(20 before, 30 now\); rerun with --overwrite to replace it"):
        run_stage(workspace, plan(30), QUIET)
    with pytest.raises(SealedError, match=r"import \(abc before, 01234567 now\); rerun"):
        run_stage(workspace, plan(20, inputs={"import": "0123456789abcdef" * 4}), QUIET)
    overwrite = RunOptions(overwrite=True, quiet=True)
    assert run_stage(workspace, plan(30), overwrite).rows_in == 30
    assert run_stage(workspace, plan(30), overwrite).already_done, "what still holds is not made again"


@pytest.mark.parametrize("torn", [b"", b'{"image_id": "v/00', b'{"image_id":"v/0018","vehicle_id":"v"}'])
def test_a_stage_cut_short_continues_and_repeats_nothing(workspace: Workspace, torn: bytes) -> None:
    """``torn`` is what a kill left of the last row: nothing, a piece, or all but the line break."""
    undisturbed = Workspace(workspace.root.parent / "other", create=True)
    run_stage(undisturbed, plan(), QUIET)
    worked: list[int] = []

    def interrupted(number: int) -> Selected | Rejected:
        if number == 11 and 11 not in worked:
            worked.append(11)
            raise KeyboardInterrupt
        worked.append(number)
        return keep_even(number)

    with pytest.raises(KeyboardInterrupt):
        run_stage(workspace, plan(work=interrupted, workers=1), QUIET)
    running = workspace.folder("select") / "part-running.jsonl"
    done = len(running.read_bytes().splitlines())
    with running.open("ab") as file:
        file.write(torn)
    unfinished = next(status for status in workspace_status(workspace) if status.stage == "select")
    assert (unfinished.state, unfinished.kept) == ("unfinished", done)
    assert unfinished.pending == 20 - unfinished.kept - unfinished.rejected
    run_stage(workspace, plan(work=interrupted, workers=1), QUIET)
    assert sealed_bytes(workspace) == sealed_bytes(undisturbed)


KILLED_RUN = """
    import os, signal, sys, time
    from pathlib import Path
    from pfcvr import files, stage
    from pfcvr.records import Selected
    from pfcvr.store import Workspace

    kill_after, root = int(sys.argv[1]), Path(sys.argv[2])
    steps = 0

    def count_down(call):
        def counted(*arguments, **named):
            global steps
            steps += 1
            if steps == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)
        return counted

    os.fsync = count_down(os.fsync)
    Path.replace = count_down(Path.replace)
    Path.unlink = count_down(Path.unlink)

    def work(number):
        count_down(lambda: None)()
        return Selected(image_id=f"v/{number:03d}", vehicle_id="v")

    stage.RECORDS_PER_FILE = 4
    plan = stage.StagePlan(
        name="select", kind=Selected, settings={}, inputs={}, rows=lambda: range(10),
        key=lambda number: f"v/{number:03d}", work=work, total=10,
    )
    workspace = Workspace(root, create=True)
    with workspace.lock():
        stage.run_stage(workspace, plan, stage.RunOptions(quiet=True))
"""


def killed_run(kill_after: int, root: Path) -> int:
    """Exit code of a process that kills itself at its ``kill_after``-th row, flush, rename or removal."""
    script = textwrap.dedent(KILLED_RUN)
    return subprocess.run([sys.executable, "-c", script, str(kill_after), str(root)], check=False).returncode


def test_a_kill_at_any_row_flush_rename_or_removal_leaves_the_same_sealed_bytes(tmp_path: Path) -> None:
    assert killed_run(0, tmp_path / "undisturbed") == 0
    expected = sealed_bytes(Workspace(tmp_path / "undisturbed"))
    kills = 0
    for kill_after in range(3, 60, 2):
        root = tmp_path / f"killed-{kill_after}"
        code = killed_run(kill_after, root)
        kills += code == -signal.SIGKILL
        assert killed_run(0, root) == 0
        assert sealed_bytes(Workspace(root)) == expected, f"killed at step {kill_after}"
        if code == 0:
            break
    else:
        pytest.fail("no run got through undisturbed; count further")
    assert kills >= 10


def test_retry_takes_up_the_rows_of_one_reason_alone(workspace: Workspace) -> None:
    run_stage(workspace, plan(), QUIET)
    worked: list[int] = []

    def mended(number: int) -> Selected:
        worked.append(number)
        return Selected(image_id=f"v/{number:04d}", vehicle_id="v")

    summary = run_stage(workspace, plan(work=mended), RunOptions(retry="odd", quiet=True))
    assert sorted(worked) == list(range(1, 20, 2))
    assert (summary.kept, summary.rejected) == (20, 0)
    with pytest.raises(UsageError, match="no row was rejected for 'odd'; reasons here: nothing was rejected"):
        run_stage(workspace, plan(work=mended), RunOptions(retry="odd", quiet=True))


def test_retry_for_a_reason_that_no_row_has_stops_before_any_work(workspace: Workspace) -> None:
    worked: list[int] = []

    def work(number: int) -> Selected | Rejected:
        worked.append(number)
        return keep_even(number)

    unknown = RunOptions(retry="even", quiet=True)
    with pytest.raises(UsageError, match=r"no row was rejected for 'even'; reasons here: nothing was rejected; leave"):
        run_stage(workspace, plan(work=work), unknown)
    run_stage(workspace, plan(work=work), RunOptions(limit=5, quiet=True))
    assert workspace.manifest("select") is None
    worked.clear()
    with pytest.raises(UsageError, match=r"no row was rejected for 'even'; reasons here: odd; give one"):
        run_stage(workspace, plan(work=work), unknown)
    assert worked == []


def test_a_retry_that_was_interrupted_goes_on_with_the_same_command(workspace: Workspace) -> None:
    run_stage(workspace, plan(), QUIET)

    def mended(number: int) -> Selected:
        return Selected(image_id=f"v/{number:04d}", vehicle_id="v")

    def interrupted(number: int) -> Selected:
        raise StageStopped("interrupted")

    again = RunOptions(retry="odd", quiet=True)
    with pytest.raises(StageStopped):
        run_stage(workspace, plan(work=interrupted), again)
    summary = run_stage(workspace, plan(work=mended), again)
    assert (summary.kept, summary.rejected) == (20, 0)
    assert not (workspace.folder("select") / "draft.json").exists()


def test_an_unforeseen_error_rejects_its_row_and_no_other(workspace: Workspace) -> None:
    def fails_on_four(number: int) -> Selected | Rejected:
        return Selected(image_id=f"v/{number:04d}", vehicle_id=["not text"]) if number == 4 else keep_even(number)

    summary = run_stage(workspace, plan(work=fails_on_four), QUIET)
    assert (summary.kept, summary.reasons) == (9, {"odd": 10, "unexpected_error": 1})
    rejected = next(row for row in workspace.rejected("select") if row.reason == "unexpected_error")
    assert rejected.subject == "v/0004"
    assert "ValidationError" in rejected.detail


def test_a_run_stops_itself_when_most_rows_fail_for_one_reason(workspace: Workspace) -> None:
    def refused(number: int) -> Rejected:
        return Rejected(stage="select", subject=f"v/{number:04d}", reason="server_gone")

    with pytest.raises(StageStopped, match=r"200 of the last 200 rows .* 'server_gone'.*--retry server_gone"):
        run_stage(workspace, plan(1000, work=refused), QUIET)
    assert workspace.manifest("select") is None
    summary = run_stage(workspace, plan(1000), RunOptions(retry="server_gone", quiet=True))
    assert (summary.kept, summary.reasons) == (500, {"odd": 500})


def test_a_stage_that_keeps_nothing_is_an_error_and_not_sealed(workspace: Workspace) -> None:
    def reject_all(number: int) -> Rejected:
        return Rejected(stage="select", subject=f"v/{number:04d}", reason="odd")

    with pytest.raises(NothingKept, match=r"kept nothing \(20 x odd\); see .*rejected.jsonl"):
        run_stage(workspace, plan(work=reject_all), QUIET)
    assert workspace.manifest("select") is None


def test_a_second_process_is_refused_with_the_pid_of_the_first_and_the_lock_dies_with_it(workspace: Workspace) -> None:
    script = (
        "import sys, time; from pathlib import Path; from pfcvr.store import Workspace\n"
        "with Workspace(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid} is working on this workspace"), workspace.lock():
            pass
        holder.kill()
        holder.wait()
        with workspace.lock():
            pass


def test_a_child_process_does_not_keep_the_lock_of_its_dead_parent(workspace: Workspace) -> None:
    script = (
        "import os, subprocess, sys; from pathlib import Path; from pfcvr.store import Workspace\n"
        "with Workspace(Path(sys.argv[1])).lock():\n"
        "    child = os.fork()\n"
        "    if child == 0: import time; time.sleep(20); os._exit(0)\n"
        "    print(child, flush=True); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", script, str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.wait()
        try:
            with workspace.lock():
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_full_disk_stops_the_run_and_the_rerun_completes_it(tmp_path: Path) -> None:
    """A limit on file size makes the kernel refuse a write in mid-row, as a full disk does."""
    root = tmp_path / "ws"
    command = [sys.executable, "-c", textwrap.dedent(KILLED_RUN), "0", str(root)]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    Workspace(root, create=True)
    full = subprocess.run(command, preexec_fn=small_files, capture_output=True, text=True, check=False)
    assert "the disk is full" in full.stderr
    assert "run the same command to continue" in full.stderr
    left = (root / "select" / "part-running.jsonl").read_bytes()
    assert 0 < len(left) <= 300
    assert killed_run(0, root) == 0
    assert [record.image_id for record in Workspace(root).records("select", Selected)] == [
        f"v/{number:03d}" for number in range(10)
    ]


def test_a_workspace_of_a_newer_version_is_refused(workspace: Workspace) -> None:
    (workspace.root / "workspace.json").write_text(json.dumps({"pfcvr_workspace": 99}))
    with pytest.raises(WorkspaceError, match=r"has version 99, this pfcvr reads up to 1; upgrade pfcvr"):
        Workspace(workspace.root)


def test_a_folder_with_other_things_in_it_is_not_taken_for_a_workspace(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(WorkspaceError, match="exists and is not a pfcvr workspace; give a new or empty folder"):
        Workspace(tmp_path, create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("left", [[], [".workspace.json.partial"], [".lock", ".workspace.json.partial"]])
def test_a_workspace_whose_making_was_killed_can_be_made_by_the_same_command(tmp_path: Path, left: list[str]) -> None:
    (tmp_path / "ws").mkdir()
    for name in left:
        (tmp_path / "ws" / name).touch()
    assert Workspace(tmp_path / "ws", create=True).manifest("import") is None
    assert Workspace(tmp_path / "ws").manifest("import") is None


@pytest.mark.parametrize("name", ["part-00000.jsonl", "rejected.jsonl"])
@pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_bytes(file.read_bytes().split(b"\n", 1)[1])])
def test_a_sealed_stage_whose_files_were_altered_is_made_anew_by_overwrite(workspace: Workspace, name, harm) -> None:
    run_stage(workspace, plan(), QUIET)
    whole = sealed_bytes(workspace)
    harm(workspace.folder("select") / name)
    assert not run_stage(workspace, plan(), RunOptions(overwrite=True, quiet=True)).already_done
    assert sealed_bytes(workspace) == whole
    assert run_stage(workspace, plan(), RunOptions(overwrite=True, quiet=True)).already_done


@pytest.mark.parametrize(
    ("name", "content"), [("draft.json", "{"), ("draft.json", "[]"), ("rejected.jsonl", "rubbish\n")]
)
def test_a_damaged_file_of_an_unfinished_stage_is_named_by_run_retry_and_status(
    workspace: Workspace, name: str, content: str
) -> None:
    run_stage(workspace, plan(), QUIET)
    (workspace.folder("select") / "manifest.json").unlink()
    (workspace.folder("select") / "draft.json").write_text(json.dumps({"fingerprint": plan().fingerprint, "total": 20}))
    (workspace.folder("select") / name).write_text(content)
    for act in (
        lambda: run_stage(workspace, plan(), QUIET),
        lambda: run_stage(workspace, plan(), RunOptions(retry="odd", quiet=True)),
    ):
        with pytest.raises(WorkspaceError, match=f"{name}: damaged.*; remove the stage's folder and run it again"):
            act()
    (status,) = (row for row in workspace_status(workspace) if row.stage == "select")
    assert (status.state, f"{name}: damaged" in status.problem) == ("damaged", True)


def test_a_damaged_record_is_named_by_file_and_line(workspace: Workspace) -> None:
    run_stage(workspace, plan(), QUIET)
    part = workspace.folder("select") / "part-00000.jsonl"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([*lines[:2], b"\x00\x00\n", *lines[3:]]))
    with pytest.raises(
        WorkspaceError, match=r"part-00000.jsonl:3: damaged record .*; remove the stage's folder and run it again"
    ):
        list(workspace.records("select", Selected))


def sum_of_batch(numbers: Sequence[int]) -> list[Selected | Rejected]:
    """What a row becomes depends, as with a model's last digits, on the rows beside it."""
    kept = sum(numbers)
    results = map(keep_even, numbers)
    return [
        result.model_copy(update={"vehicle_id": str(kept)}) if isinstance(result, Selected) else result
        for result in results
    ]


@pytest.mark.parametrize("stopped_at", [0, 3, 4, 11, 19])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_batches_hold_the_same_rows_however_a_run_was_interrupted(
    workspace: Workspace, stopped_at: int, lost: int
) -> None:
    undisturbed = Workspace(workspace.root.parent / "other", create=True)
    batched = {"batch": 4, "work_many": sum_of_batch, "workers": 1}
    run_stage(undisturbed, plan(**batched), QUIET)

    def interrupted(numbers: Sequence[int]) -> list[Selected | Rejected]:
        if stopped_at in numbers:
            raise KeyboardInterrupt
        return sum_of_batch(numbers)

    with pytest.raises(KeyboardInterrupt):
        run_stage(workspace, plan(**batched | {"work_many": interrupted}), QUIET)
    running = workspace.folder("select") / "part-running.jsonl"
    lines = running.read_bytes().splitlines(keepends=True)
    running.write_bytes(b"".join(lines[: len(lines) - lost]))
    run_stage(workspace, plan(**batched), QUIET)
    assert sealed_bytes(workspace) == sealed_bytes(undisturbed)


def test_one_bad_row_does_not_cost_its_batch(workspace: Workspace) -> None:
    batches: list[list[int]] = []

    def fails_with_six(numbers: Sequence[int]) -> list[Selected | Rejected]:
        batches.append(list(numbers))
        if 6 in numbers:
            raise ValueError("a picture that breaks its batch")
        return [keep_even(number) for number in numbers]

    def alone(number: int) -> Selected | Rejected:
        return fails_with_six([number])[0]

    summary = run_stage(workspace, plan(work=alone, work_many=fails_with_six, batch=8, workers=1), QUIET)
    assert (summary.kept, summary.reasons) == (9, {"odd": 10, "unexpected_error": 1})
    assert [rejected.subject for rejected in workspace.rejected("select") if "breaks" in rejected.detail] == ["v/0006"]
    assert batches == [list(range(8)), *([n] for n in range(8)), list(range(8, 16)), list(range(16, 20))]


def test_a_limited_run_of_batches_keeps_to_its_limit_and_the_rest_follows(workspace: Workspace) -> None:
    batched = plan(batch=4, work_many=sum_of_batch, workers=1)
    first = run_stage(workspace, batched, RunOptions(limit=6, quiet=True))
    assert (first.kept + first.rejected, first.pending) == (6, 14)
    whole = run_stage(workspace, batched, QUIET)
    assert (whole.kept, whole.rejected) == (10, 10)
    expected = {str(sum(range(start, start + 4))) for start in range(0, 20, 4)}
    assert {record.vehicle_id for record in workspace.records("select", Selected)} == expected


def test_a_run_of_batches_stops_itself_as_one_of_rows_does(workspace: Workspace) -> None:
    def refused(numbers: Sequence[int]) -> list[Rejected]:
        return [Rejected(stage="select", subject=f"v/{number:04d}", reason="no_memory") for number in numbers]

    with pytest.raises(StageStopped, match="200 of the last 200 rows were rejected for 'no_memory'"):
        run_stage(workspace, plan(1000, work_many=refused, batch=16), QUIET)
    rejected = workspace.folder("select") / "rejected.jsonl"
    assert len(rejected.read_bytes().splitlines()) == 200


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(min_size=1, max_size=8), unique=True, min_size=1, max_size=12))
def test_any_text_can_name_an_image(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    names = [name for name in names if name.isprintable()] or ["plain"]
    workspace = Workspace(tmp_path_factory.mktemp("names") / "ws", create=True)
    named = plan(
        rows=lambda: names, key=str, total=None, work=lambda name: Selected(image_id=name, vehicle_id="v"), settings={}
    )
    run_stage(workspace, named, QUIET)
    assert [record.image_id for record in workspace.records("select", Selected)] == sorted(names)


def test_a_limited_run_leaves_the_rest_pending_and_the_next_one_seals_the_same_bytes(workspace: Workspace) -> None:
    some = run_stage(workspace, plan(), RunOptions(quiet=True, limit=6))
    assert (some.rows_in, some.kept, some.rejected, some.pending) == (20, 3, 3, 14)
    assert some.text().endswith("(odd: 3), 14 pending: run the same command without --limit to go on")
    (status,) = (row for row in workspace_status(workspace) if row.stage == "select")
    assert (status.state, status.pending) == ("unfinished", 14)
    assert run_stage(workspace, plan(), QUIET).kept == 10
    whole = Workspace(workspace.root.parent / "whole", create=True)
    run_stage(whole, plan(), RunOptions(quiet=True, limit=20))
    assert sealed_bytes(whole) == sealed_bytes(workspace)


def test_a_slow_row_holds_up_no_other(workspace: Workspace) -> None:
    others_written = threading.Event()
    running = workspace.folder("select") / "part-running.jsonl"

    def work(number: int) -> Selected:
        if number == 0:
            assert others_written.wait(30), "the rows after the slow one were never written"
        elif len(running.read_bytes().splitlines()) >= 40:
            others_written.set()
        return Selected(image_id=f"v/{number:04d}", vehicle_id="v")

    assert run_stage(workspace, plan(100, work=work), QUIET).kept == 100


def test_a_run_that_ends_early_tells_the_rows_at_work_to_give_up(workspace: Workspace) -> None:
    told = threading.Event()

    def work(number: int) -> Selected:
        if number == 0:
            raise StageStopped("the server is gone")
        told.wait(30)
        raise StageStopped("given up")

    with pytest.raises(StageStopped, match="the server is gone"):
        run_stage(workspace, plan(work=work, give_up=told.set), QUIET)
    assert told.is_set()
    assert run_stage(workspace, plan(), QUIET).rows_in == 20
