"""Workers in another interpreter: what they answer, how they end, and what they may import."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from pfcvr.config import PartsConfig, parse
from pfcvr.errors import BackendError, CheckpointError, StageStopped, UsageError
from pfcvr.pipeline import parts
from pfcvr.pipeline.child_process import ChildProcess
from pfcvr.pipeline.detectors import groundingdino
from pfcvr.pipeline.images import UnreadableImage
from pfcvr.pipeline.pictures import Picture
from pfcvr.pipeline.workers.client import Worker
from pfcvr.records import ImageParts, ImageRecord
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

STUB = Path(__file__).parent / "stub"


@pytest.fixture(autouse=True)
def stub_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(STUB))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


def start(log: Path, **settings: Any) -> Worker:
    worker = Worker(sys.executable, "stub_worker", settings, log)
    worker.wait_until_ready()
    return worker


def files(folder: Path, *sizes: int) -> list[Path]:
    paths = [folder / f"{number}.jpg" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(b"x" * size)
    return paths


def test_every_image_gets_its_answer_whatever_the_library_prints(log: Path, tmp_path: Path) -> None:
    worker = start(log)
    try:
        for sizes in ((3, 5), (7,)):
            found = [result["found"][0]["box"][2] for result in worker.ask(files(tmp_path, *sizes))]
            assert found == list(sizes)
    finally:
        worker.close()
    assert "a library greets the world" in log.read_text()


def test_a_worker_that_ends_is_one_sentence_with_its_last_words(log: Path, tmp_path: Path) -> None:
    worker = start(log, ends_after=1)
    worker.ask(files(tmp_path, 3))
    expected = r"ended with exit code 5 \(MemoryError: the picture was too much\); run the same command to continue"
    with pytest.raises(StageStopped, match=expected):
        worker.ask(files(tmp_path, 3))


@pytest.mark.parametrize(
    ("kind", "error"), [("missing", BackendError), ("weights", CheckpointError), ("settings", UsageError)]
)
def test_what_a_worker_cannot_do_is_an_error_of_our_own(kind: str, error: type[Exception], log: Path) -> None:
    with pytest.raises(error, match="this cannot be done; do that"):
        start(log, fails=kind)


def test_an_interpreter_that_is_none_is_one_sentence(tmp_path: Path, log: Path) -> None:
    with pytest.raises(BackendError, match=r"cannot be run \(no such file or directory\); give --python"):
        Worker(str(tmp_path / "python"), "stub_worker", {}, log)
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho 3 8\n")
    old.chmod(0o755)
    with pytest.raises(BackendError, match="no Python of version 3.10 or newer"):
        Worker(str(old), "stub_worker", {}, log)


def test_last_words_are_those_of_this_process_and_not_of_one_before_it(log: Path) -> None:
    log.write_text("RuntimeError: of yesterday\n")
    process = ChildProcess([sys.executable, "-c", "print('loading', flush=True); import os; os.abort()"], log)
    wait_until(lambda: process.ended() is not None)
    process.stop()
    assert (process.ended(), process.last_line()) == (-signal.SIGABRT, "loading")
    assert process.last_line(("Error", "error:")) == ""


def test_a_worker_that_hangs_can_be_ended_while_its_answer_is_waited_for(log: Path, tmp_path: Path) -> None:
    worker = start(log, hangs=600)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(worker.ask, files(tmp_path, 3))
        wait_until(lambda: "reports its progress" in log.read_text())
        worker.close()
        with pytest.raises(StageStopped, match="run the same command to continue"):
            asked.result()


def test_a_worker_ends_with_a_parent_that_is_killed(log: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from pfcvr.pipeline.workers.client import Worker\n"
        f"worker = Worker(sys.executable, 'stub_worker', {{}}, Path({str(log)!r}))\n"
        "worker.wait_until_ready(); print('ready', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        family = descendants(parent.pid)
        assert len(family) == 2  # the guardian and the worker
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [own for child in children for own in descendants(child)]


def test_a_worker_imports_nothing_that_another_environment_lacks() -> None:
    ours = ("pydantic", "typer", "cv2", "pycocotools", "datasets", "pyarrow", "tqdm", "httpx2", "pandas")
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({ours!r}))\n"
        "import pfcvr.pipeline.workers.groundingdino, pfcvr.pipeline.workers.serve"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    return path


def detector(folder: Path, checkpoint: Path, **values: Any) -> groundingdino.OriginalGroundingDinoDetector:
    config = PartsConfig.model_validate({"detector": "groundingdino", "detector_model": str(checkpoint), **values})
    return groundingdino.OriginalGroundingDinoDetector(Workspace(folder / "work", create=True), config)


def pictures(*paths: Path) -> list[Picture]:
    facts = {"vehicle_id": "1", "source": "s", "sha256": "0" * 64, "width": 90, "height": 90}
    return [Picture(ImageRecord(image_id=path.stem, path=path.name, **facts), path) for path in paths]


def test_a_box_belongs_to_the_part_of_its_phrase(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phrases = tmp_path / "phrases.toml"
    phrases.write_text('name = "two"\nversion = 1\nvehicle = ["car"]\n[phrases]\nroof = ["roof rack"]\n')
    monkeypatch.setattr(groundingdino, "WORKER", "stub_worker")
    found = detector(tmp_path, checkpoint, phrases=phrases)
    try:
        (on_roof,) = found.detect(pictures(*files(tmp_path, 30)))
        with pytest.raises(UnreadableImage, match="the file has no bytes"):
            found.detect(pictures(*files(tmp_path, 30, 0)))
    finally:
        found.close()
    assert [(one.part, one.box_xyxy, one.score) for one in on_roof.instances] == [("roof", (0, 0, 30, 1), 0.5)]
    assert on_roof.vehicle == (0, 0, 60, 2)


@pytest.fixture
def fatal(
    small: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, list[str]]]:
    """Runs the stage over five images, three at a time; returns its summary and the pictures that ended a worker."""
    small.add_images({"00001": 3, "00002": 2})
    monkeypatch.setattr(groundingdino, "WORKER", "stub_worker")
    ends = tmp_path / "ends"
    monkeypatch.setenv("STUB_ENDS", str(ends))

    def run(word: str | None = None, at_most: int = 1000) -> tuple[Any, list[str]]:
        ends.write_text("")
        monkeypatch.setenv("STUB_ENDS_AT_MOST", str(at_most))
        if word is None:
            monkeypatch.delenv("STUB_FATAL", raising=False)
        else:
            monkeypatch.setenv("STUB_FATAL", word)
        values = {"detector": "groundingdino", "detector_model": str(checkpoint), "segmenter": "none", "batch": 3}
        summary = parts.run(small.workspace, PartsConfig.model_validate(values), RunOptions(quiet=True))
        return summary, ends.read_text().splitlines()

    return run


def test_a_picture_that_ends_the_worker_each_time_is_rejected_alone(small: Any, fatal: Callable[..., Any]) -> None:
    summary, ends = fatal("000002")
    assert (summary.kept, summary.reasons) == (4, {"worker_ended": 1})
    (rejected,) = small.workspace.rejected("parts")
    assert rejected.subject == "00001/000002"
    assert "worker 'stub_worker' was killed by signal 6" in rejected.detail
    assert all(record.instances for record in small.workspace.records("parts", ImageParts))
    assert ends == ["000002.png"] * 4  # twice beside others, twice alone


def test_a_worker_that_ends_by_chance_costs_no_picture(fatal: Callable[..., Any]) -> None:
    summary, ends = fatal("000002", at_most=1)
    assert (summary.kept, summary.rejected, len(ends)) == (5, 0, 1)


def test_a_worker_that_ends_over_any_picture_stops_the_run_and_blames_none(
    small: Any, fatal: Callable[..., Any]
) -> None:
    with pytest.raises(StageStopped, match=r"'stub_worker' was killed by signal 6.*run the same command to continue"):
        fatal("")
    assert (small.workspace.folder("parts") / "rejected-running.jsonl").read_bytes() == b""
    assert fatal()[0].kept == 5


def test_a_detector_that_was_closed_starts_no_worker_again(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groundingdino, "WORKER", "stub_worker")
    found = detector(tmp_path, checkpoint)
    found.detect(pictures(*files(tmp_path, 30)))
    found.close()
    with pytest.raises(StageStopped, match="the run was ended; run the same command to continue"):
        found.detect(pictures(*files(tmp_path, 30)))


def test_the_original_grounding_dino_needs_its_package_its_checkpoint_and_a_packaged_configuration(
    tmp_path: Path, checkpoint: Path
) -> None:
    with pytest.raises(
        BackendError,
        match=r"'groundingdino-py', which \S+ does not have .*; run: python3 -m venv own && "
        r"own/bin/python -m pip install groundingdino-py==0.4.0 'transformers<5', and add --python own/bin/python",
    ):
        detector(tmp_path, checkpoint).detect(pictures(*files(tmp_path, 3)))
    with pytest.raises(CheckpointError, match="there is no such file; give the .pth file with --detector-model"):
        detector(tmp_path, tmp_path / "none.pth")
    (tmp_path / "bert").mkdir()
    with pytest.raises(CheckpointError, match="bert: no vocabulary of a tokenizer there, .*; get the whole folder"):
        detector(tmp_path, checkpoint, text_encoder=str(tmp_path / "bert"))
    with pytest.raises(ValueError, match="GroundingDINO_SwinT_OGC"):
        detector(tmp_path, checkpoint, detector_config="my_config.py")


def test_other_weights_are_other_inputs(tmp_path: Path, checkpoint: Path) -> None:
    before = detector(tmp_path, checkpoint).inputs
    checkpoint.write_bytes(b"other weights")
    assert detector(tmp_path, checkpoint).inputs != before


def test_another_text_encoder_is_another_input_wherever_its_folder_lies(tmp_path: Path, checkpoint: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "bert").mkdir(parents=True)
        (tmp_path / place / "bert/vocab.txt").write_text("car")
    here, there = (detector(tmp_path, checkpoint, text_encoder=str(tmp_path / p / "bert")) for p in ("here", "there"))
    assert (here.settings, here.inputs) == (there.settings, there.inputs)
    (tmp_path / "there/bert/vocab.txt").write_text("truck")
    assert detector(tmp_path, checkpoint, text_encoder=str(tmp_path / "there/bert")).inputs != here.inputs


@pytest.mark.parametrize("values", [{"python": "python3"}, {"text_encoder": "bert"}])
def test_settings_of_the_original_package_are_refused_beside_another_detector(values: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="this is for detector 'groundingdino' alone; leave it out"):
        parse(PartsConfig, {"detector": "grounding-dino", **values}, "here")
