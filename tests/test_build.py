"""``pfcvr-data run``: the whole data half on rendered vehicles, undisturbed, killed, repeated and refused."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from folders import files_of

BUILD = """
workspace = "workspace"
[import]
source = "{source}"
[select]
identities = 18
seed = 3
[caption]
captioner = "import"
captions = "{source}/captions.jsonl"
[parts]
annotations = "{source}/parts.coco.json"
grid = "8x8"
[split]
ratio = 0.7
val = 0.1
[check]
[show]
out = "sheet.png"
sample = 6
[export]
out = "dataset"
"""
PROGRAM = "from pfcvr.cli import data_main; data_main()"


def data_command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *arguments]


@pytest.fixture(scope="module")
def vehicles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("source") / "vehicles"
    synth = data_command("synth", str(out), "--identities", "24", "--size", "64", "--json")
    subprocess.run(synth, check=True, capture_output=True)
    return out


def write_build(folder: Path, vehicles: Path, text: str = BUILD) -> list[str]:
    folder.mkdir()
    (folder / "build.toml").write_text(text.format(source=vehicles))
    return data_command("run", str(folder / "build.toml"), "--json")


@pytest.fixture(scope="module")
def undisturbed(vehicles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "build"
    subprocess.run(write_build(folder, vehicles), check=True, capture_output=True)
    return folder


def test_one_command_builds_a_data_set_of_the_selected_vehicles(undisturbed: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(undisturbed / "dataset"))
    assert set(loaded) == {"train", "val", "test"}
    vehicles = [set(split["vehicle_id"]) for split in loaded.values()]
    assert len(set.union(*vehicles)) == sum(len(ids) for ids in vehicles) == 18
    row = loaded["train"][0]
    assert len(row["captions"]) == 2
    assert sum(map(len, row["part_grid"])) == 6 * 8
    assert (undisturbed / "sheet.png").stat().st_size > 10_000


def test_running_a_finished_build_again_changes_nothing(undisturbed: Path) -> None:
    before = files_of(undisturbed / "dataset")
    command = data_command("run", str(undisturbed / "build.toml"), "--json")
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    steps = json.loads(again.stdout)["steps"]
    assert all(steps[stage]["already_done"] for stage in ("import", "select", "caption", "parts", "split", "export"))
    assert files_of(undisturbed / "dataset") == before


@pytest.mark.parametrize("seed", range(4))
def test_a_build_killed_at_random_moments_ends_in_the_same_bytes(
    undisturbed: Path, vehicles: Path, tmp_path: Path, seed: int
) -> None:
    """Several kills, each a little later than the last, so that every stage is hit in some of the runs."""
    command = write_build(tmp_path / "build", vehicles)
    moments = random.Random(seed)
    wait = moments.uniform(0.3, 0.8)
    for _ in range(40):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
            try:
                started.communicate(timeout=wait)
            except subprocess.TimeoutExpired:
                started.send_signal(signal.SIGKILL)
        if started.returncode == 0:
            break
        assert started.returncode == -signal.SIGKILL
        wait += moments.uniform(0.1, 0.9)
    assert started.returncode == 0
    assert files_of(tmp_path / "build" / "dataset") == files_of(undisturbed / "dataset")


def test_other_settings_in_the_file_are_refused_until_overwrite(vehicles: Path, tmp_path: Path) -> None:
    command = write_build(tmp_path / "build", vehicles)
    subprocess.run(command, check=True, capture_output=True)
    build = tmp_path / "build" / "build.toml"
    build.write_text(build.read_text().replace("ratio = 0.7", "ratio = 0.5"))
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    message = json.loads(refused.stdout)["error"]["message"]
    assert "ratio (0.7 before, 0.5 now)" in message
    assert "rerun with --overwrite to replace it" in message
    subprocess.run([*command, "--overwrite"], check=True, capture_output=True)


def test_edits_by_people_are_laid_over_before_the_check_and_keep_to_their_word(vehicles: Path, tmp_path: Path) -> None:
    edits = '[[merge]]\nfile = "fixed.jsonl"\neditor = "Li"\n[[merge]]\nfile = "later/fixed.jsonl"\n[split]'
    text = BUILD.replace("[split]", edits).replace("[select]\nidentities = 18\nseed = 3\n", "")
    command = write_build(tmp_path / "build", vehicles, text)
    image_ids = [json.loads(line)["image_id"] for line in (vehicles / "captions.jsonl").read_text().splitlines()[:2]]
    (tmp_path / "build" / "later").mkdir()
    for name, captions in (("fixed.jsonl", ["By Li."]), ("later/fixed.jsonl", ["By another.", "By another."])):
        rows = [{"image_id": own, "caption": caption} for own, caption in zip(image_ids, captions, strict=False)]
        (tmp_path / "build" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["steps"]
    assert list(steps)[2:] == [
        "parts",
        "merge fixed.jsonl",
        "merge fixed.jsonl (2)",
        "split",
        "check",
        "show",
        "export",
    ]
    assert steps["merge fixed.jsonl (2)"]["reasons"] == {"human_edit_kept": 1}
    again = json.loads(subprocess.run([*command, "--overwrite"], check=True, capture_output=True).stdout)["steps"]
    assert all(again[name]["already_done"] for name in steps if name.startswith("merge"))
    shards = sorted((tmp_path / "build" / "dataset" / "data").glob("*.parquet"))
    found = {
        row["image_id"].rpartition("/")[2]: row["captions"]
        for path in shards
        for row in parquet.read_table(path).to_pylist()
    }
    assert [found[own] for own in image_ids] == [["By Li."], ["By another."]]


def test_two_builds_at_once_the_second_is_refused_by_pid(vehicles: Path, tmp_path: Path) -> None:
    command = write_build(tmp_path / "build", vehicles)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
        while not (tmp_path / "build" / "workspace" / ".lock").exists() and first.poll() is None:
            pass
        refusals = []
        while first.poll() is None and not refusals:
            second = subprocess.run(command, capture_output=True, text=True, check=False)
            if second.returncode == 1:
                refusals.append(json.loads(second.stdout)["error"]["message"])
        assert first.wait() == 0
    assert refusals
    assert f"process {first.pid} is working on this workspace" in refusals[0]


def test_a_build_whose_source_is_not_there_leaves_no_workspace(tmp_path: Path) -> None:
    command = write_build(tmp_path / "build", tmp_path / "VERI-Wild")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    told = json.loads(done.stdout)["error"]["message"]
    assert told == f"{tmp_path}/VERI-Wild: no such file or folder; give the root of a vehicle image collection"
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["build.toml"]


def test_a_failed_check_ends_the_build_before_anything_is_exported(vehicles: Path, tmp_path: Path) -> None:
    text = BUILD.replace("[check]", "[check]\nrequire_parts = true").replace("{source}/parts.coco.json", "few.json")
    text = text.replace("[select]\nidentities = 18\nseed = 3\n", "")
    command = write_build(tmp_path / "build", vehicles, text)
    coco = json.loads((vehicles / "parts.coco.json").read_text())
    coco["annotations"] = coco["annotations"][:1]
    (tmp_path / "build" / "few.json").write_text(json.dumps(coco))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    outcome = json.loads(done.stdout)
    assert outcome["passed"] is False
    assert "parts" in json.dumps(outcome["steps"]["check"])
    assert not (tmp_path / "build" / "dataset").exists()
