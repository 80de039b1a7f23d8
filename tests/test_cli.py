"""The command line as a user meets it: exit codes, one sentence an error, one JSON object, documented commands."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import pfcvr
from pfcvr.cli import data_app, model_app, run
from pfcvr.pipeline.sources.folder import Folder
from pfcvr.row_index import RowIndex

ROOT = Path(__file__).parent.parent
APPS = {"pfcvr-data": data_app, "pfcvr": model_app}
Outcome = tuple[int, str, str]


@pytest.fixture
def run_cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a program in this process; gives its exit code, stdout and stderr."""

    def call(program: str, *arguments: str) -> Outcome:
        code = run(APPS[program], program, arguments)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def command_names(program: str) -> list[str]:
    return [command.name or command.callback.__name__ for command in all_commands(APPS[program])]


def all_commands(app):
    return [
        *app.registered_commands,
        *(c for group in app.registered_groups for c in all_commands(group.typer_instance)),
    ]


def test_an_error_is_one_sentence_on_stderr_and_exit_code_1(run_cli, tmp_path: Path) -> None:
    code, out, err = run_cli("pfcvr-data", "status", "-w", str(tmp_path / "none"))
    assert (code, out) == (1, "")
    assert err == (
        f"error: {tmp_path}/none: no workspace here; make one with: pfcvr-data import SRC -w {tmp_path}/none\n"
    )


def test_with_json_an_error_is_one_object_on_stdout(run_cli, tmp_path: Path) -> None:
    code, out, err = run_cli("pfcvr-data", "status", "-w", str(tmp_path / "none"), "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)["error"]["kind"] == "WorkspaceError"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["statsu"], "No such command 'statsu'"),
        (["status"], "Missing option '--workspace'"),
        (["select", "-w", "x", "--identities", "many"], "'--identities': Input should be a valid integer"),
        (["parts", "-w", "x", "--grid", "24by24"], "the patch grid is ROWSxCOLS, such as 24x24, and not '24by24'"),
        (["parts", "-w", "x", "--grid", "24"], "the patch grid is ROWSxCOLS, such as 24x24, and not '24'"),
        (["parts", "-w", "x", "--grid", "0x24"], "'grid.rows': input should be greater than or equal to 1"),
        (["caption", "-w", "x"], "Missing option '--captioner'"),
        (["import", "src", "-w", "x", "--format", "cifar"], "'format': input should be 'auto'"),
        (["split", "-w", "x", "--ratio", "1.5"], "'ratio': input should be less than 1 (got 1.5)"),
    ],
)
def test_a_wrong_command_line_exits_2_and_says_what_is_wrong(run_cli, arguments: list[str], sentence: str) -> None:
    code, out, err = run_cli("pfcvr-data", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_a_wrong_command_line_names_the_help_of_the_command_that_was_meant(run_cli) -> None:
    assert run_cli("pfcvr-data", "status")[2].endswith("See: pfcvr-data status --help\n")
    assert run_cli("pfcvr", "train", "--data", "x")[2].endswith("See: pfcvr train --help\n")
    assert run_cli("pfcvr", "tarin")[2].endswith("See: pfcvr --help\n")


@pytest.mark.parametrize("program", APPS)
def test_a_program_without_a_command_prints_its_help(run_cli, program: str) -> None:
    code, out, err = run_cli(program)
    assert (code, err) == (2, "")
    assert out == run_cli(program, "--help")[1]
    assert out.startswith(f"Usage: {program} ")


@pytest.mark.parametrize("program", APPS)
def test_the_version_is_that_of_the_package(run_cli, program: str) -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run_cli(program, "--version") == (0, f"{program} {stated}\n", "")
    assert pfcvr.__version__ == stated


def test_control_characters_of_a_source_never_reach_the_terminal_and_survive_in_json(run_cli, tmp_path: Path) -> None:
    source, workspace = tmp_path / "source", str(tmp_path / "work")
    camera, color = "\x1b[2J\x07\x9b2J", "blue\u202e\U000e0041日本"
    info = source / "train_test_split" / "vehicle_info.txt"
    info.parent.mkdir(parents=True)
    info.write_text(f"00001/000001;{camera};2018-03-11 08:21:03;Audi;Sedan;{color}\n")
    picture = source / "images" / "00001" / "000001.jpg"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (32, 32), "navy").save(picture)
    told = []
    for command in (["import", str(source), "--strict"], ["import", str(source), "--strict", "--debug"], ["stats"]):
        if command == ["stats"]:
            assert run_cli("pfcvr-data", "import", str(source), "-w", workspace)[0] == 0
        _, out, err = run_cli("pfcvr-data", *command, "-w", workspace)
        told.append(out + err)
        assert not {letter for letter in out + err if unicodedata.category(letter) in ("Cc", "Cf")} - {"\n"}
    assert r"blue\u202e\udb40\udc41日本" in told[0]
    assert r"\u001b[2J\u0007\u009b2J" in told[-1]
    _, out, _ = run_cli("pfcvr-data", "stats", "-w", workspace, "--json")
    assert out.removesuffix("\n").isprintable()
    assert camera in json.loads(out)["images_per_camera"]


def test_what_the_system_refuses_is_one_sentence_with_the_path(run_cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = str(tmp_path / "file" / "ws")
    sentence = f"{below}: not a directory; check that it is the path you mean and that you may read and write there"
    assert run_cli("pfcvr-data", "import", str(tmp_path), "-w", below) == (1, "", f"error: {sentence}\n")
    code, out, err = run_cli("pfcvr-data", "import", str(tmp_path), "-w", below, "--json")
    assert (code, err) == (1, "")
    assert json.loads(out) == {"error": {"kind": "SystemRefusal", "message": sentence, "exit_code": 1}}


def test_a_disk_without_room_for_anything_is_one_sentence_and_the_same_command_works_later(tmp_path: Path) -> None:
    (tmp_path / "images" / "1").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "1" / "1.png")
    program = "import resource, sys; from pfcvr.cli import data_main\n"
    program += "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop()),) * 2); data_main()"
    command = [sys.executable, "-c", program, "import", str(tmp_path), "-w", str(tmp_path / "ws")]
    for room in ("0", "8", "500", "8192"):
        full = subprocess.run([*command, room], check=False, capture_output=True, text=True)
        assert full.returncode == 1
        place = re.escape(str(tmp_path / "ws"))
        assert re.fullmatch(f"error: {place}.*; free some space and run the same command .*\n", full.stderr)
    assert subprocess.run([*command, str(1 << 30)], check=False, capture_output=True).returncode == 0


def test_a_full_disk_for_temporary_files_is_one_sentence_and_the_same_command_continues(
    run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images" / "1").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "1" / "1.png")
    command = ("pfcvr-data", "import", str(tmp_path), "-w", str(tmp_path / "ws"), "--json")

    def add(index: RowIndex, *_: object) -> None:
        index._rows.execute("PRAGMA max_page_count = 1")
        index._rows.execute("CREATE TABLE more (word TEXT)")

    with monkeypatch.context() as patched:
        patched.setattr(RowIndex, "add", add)
        code, out, err = run_cli(*command)
    assert (code, err) == (1, "")
    assert json.loads(out)["error"]["message"].startswith("the disk for temporary files is full; free some space")
    assert run_cli(*command)[0] == 0


def test_a_disk_that_fills_up_while_a_data_set_is_unpacked_is_named(
    run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images" / "1").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "1" / "1.png")

    def read(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Folder, "read", read)
    work = str(tmp_path / "ws")
    sentence = f"{work}: stage 'import': the disk is full; free some space and run the same command to continue"
    command = ("pfcvr-data", "import", str(tmp_path), "-w", work, "--format", "folder")
    assert run_cli(*command) == (1, "", f"error: {sentence}\n")


def test_an_error_of_the_program_itself_is_one_sentence_too_and_its_trace_is_for_debug_alone(
    run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "1.png")

    def read(*_: object) -> None:
        raise ZeroDivisionError("nobody\nforesaw this")

    monkeypatch.setattr(Folder, "read", read)
    command = ("pfcvr-data", "import", str(tmp_path), "-w", str(tmp_path / "ws"), "--format", "folder")
    what = "ZeroDivisionError: nobody; this is a defect of pfcvr-data and not of your command, please report it: "
    assert run_cli(*command) == (1, "", f"error: {what}--debug shows the trace\n")
    code, out, err = run_cli(*command, "--json")
    message = f"{what}--debug shows the trace"
    assert (code, err) == (1, "")
    assert json.loads(out) == {"error": {"kind": "InternalError", "message": message, "exit_code": 1}}
    code, out, err = run_cli(*command, "--json", "--debug")
    assert (code, json.loads(out)["error"]["message"]) == (1, f"{what}the trace is above")
    assert err.startswith("Traceback")
    assert "foresaw this" in err


def test_debug_shows_the_trace(run_cli, tmp_path: Path) -> None:
    _, _, err = run_cli("pfcvr-data", "status", "-w", str(tmp_path / "none"), "--debug")
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            'workspace = "w"\n[import]\nsource = "s"\n[caption]\ncaptionner = "template"',
            "unknown key 'caption.captionner'",
        ),
        ('workspace = "w"\n[import]\nsource = "s"\n[captions]\n', "unknown key 'captions'; known here: caption, check"),
        ('workspace = "w"', "'import' is missing; add it"),
        ('workspace = "w\n', "not valid TOML"),
    ],
)
def test_a_build_file_with_a_mistake_is_refused_by_name(run_cli, tmp_path: Path, text: str, sentence: str) -> None:
    build = tmp_path / "build.toml"
    build.write_text(text)
    code, _, err = run_cli("pfcvr-data", "run", str(build))
    assert code == 2
    assert sentence in err
    assert str(build) in err
    assert not (tmp_path / "w").exists()


def test_a_selection_that_falls_short_says_so_as_a_command_and_in_a_build(run_cli, tmp_path: Path) -> None:
    for vehicle_id, color in (("00001", "navy"), ("00002", "red")):
        picture = tmp_path / "source" / vehicle_id / "a.jpg"
        picture.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32), color).save(picture)
    build = tmp_path / "build.toml"
    build.write_text(
        'workspace = "work"\n[import]\nsource = "source"\nformat = "folder"\n[select]\nidentities = 1796\n'
    )
    again = ("select", "-w", str(tmp_path / "work"), "--identities", "1796")
    for arguments in (("run", str(build)), again):
        code, out, _ = run_cli("pfcvr-data", *arguments)
        assert code == 0
        assert "1,796 identities wanted, 2 kept: every vehicle that qualifies was taken\n" in out


def test_a_missing_build_file_is_one_sentence(run_cli, tmp_path: Path) -> None:
    code, _, err = run_cli("pfcvr-data", "run", str(tmp_path / "none.toml"))
    assert code == 2
    assert "there is no such configuration file; check the path" in err


def test_ctrl_c_exits_130_and_the_same_command_completes_the_work(tmp_path: Path) -> None:
    program = "from pfcvr.cli import data_main; data_main()"
    synth = ["synth", str(tmp_path / "src"), "--identities", "60", "--size", "96"]
    subprocess.run([sys.executable, "-c", program, *synth], check=True, capture_output=True)
    command = [sys.executable, "-c", program, "import", str(tmp_path / "src"), "-w", str(tmp_path / "ws"), "--json"]
    running = tmp_path / "ws" / "import" / "part-running.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        while not (running.exists() and running.stat().st_size) and started.poll() is None:
            time.sleep(0.001)
        os.kill(started.pid, signal.SIGINT)
        out, err = started.communicate()
    if started.returncode != 0:  # a quick machine may have been done before the signal came
        assert started.returncode == 130
        assert "run the same command to continue" in json.loads(out)["error"]["message"]
        assert "Traceback" not in err
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(again.stdout)["kept"] == 240


@pytest.mark.parametrize("program", APPS)
def test_every_command_has_a_help_text_with_an_example(run_cli, program: str) -> None:
    for name in command_names(program):
        code, out, _ = run_cli(program, name, "--help")
        assert code == 0
        assert f"Example: {program} {name}" in " ".join(out.split()), name
        assert "--json" in out, name


def test_the_command_reference_is_what_the_programs_say() -> None:
    script = ROOT / "scripts" / "cli_reference.py"
    printed = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / "cli.md").read_text() == printed, "run: make docs"


def test_commands_that_the_documentation_names_exist() -> None:
    known = {program: set(command_names(program)) for program in APPS}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for program, name in re.findall(r"^\$? ?(pfcvr-data|pfcvr) ([a-z]+)\b", page.read_text(), flags=re.MULTILINE):
            assert name in known[program], f"{page.name}: {program} {name}"
