"""``--detector groundingdino``: the original ``groundingdino-py`` and its .pth checkpoints (Liu et al., 2023).

The package wants an older transformers than we do, so it lives in an environment of its own, whose interpreter
``--python`` names, and answers from there as a worker.
"""

import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pfcvr.config import PartsConfig
from pfcvr.errors import CheckpointError, PfcvrError, StageStopped, UsageError
from pfcvr.files import sha256_file
from pfcvr.pipeline.images import UnreadableImage
from pfcvr.pipeline.phrases import Answer, load_phrases
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.pipeline.weights import check_tokenizer_files, weights_label, weights_sha256
from pfcvr.pipeline.workers.client import Worker, WorkerEnded
from pfcvr.records import Rejected
from pfcvr.store import Workspace

WORKER = "pfcvr.pipeline.workers.groundingdino"
PLAIN_SIZE = (1333, 800)  # pixels; as much work as any picture makes, since the package brings all to this size at most


class OriginalGroundingDinoDetector:
    """Boxes for part phrases, one picture at a time, from a worker that is started with the first picture.

    A worker that ends is started again. A picture that ended two of them while it was alone is to blame, unless a plain
    picture ends the next one too.
    """

    reads_pixels = True
    rejected_count = 0

    def __init__(self, workspace: Workspace, config: PartsConfig) -> None:
        if config.detector_model is None:
            raise UsageError("detector 'groundingdino' needs a .pth checkpoint; give it with --detector-model FILE")
        checkpoint = Path(config.detector_model)
        if not checkpoint.is_file():
            raise CheckpointError(f"{checkpoint}: there is no such file; give the .pth file with --detector-model")
        self.model = checkpoint.name
        self._python = str(config.python or sys.executable)
        self._log = workspace.folder("parts") / "groundingdino.log"
        self._phrases = load_phrases(config)
        self._worker: Worker | None = None
        self._starting = threading.Lock()
        self._closed = False
        threshold = self._phrases.thresholds.box
        self._worker_settings: dict[str, Any] = {
            "config": config.detector_config,
            "checkpoint": str(checkpoint.resolve()),
            "text_encoder": config.text_encoder,
            "device": config.device,
            "phrases": self._phrases.texts,
            "threshold": threshold,
        }
        self.settings = {
            "threshold": str(threshold),
            "detector_config": config.detector_config,
            "text_encoder": weights_label(config.text_encoder),
        }
        self.inputs = {"detector_model": sha256_file(checkpoint), "phrases": self._phrases.sha256}
        if Path(config.text_encoder).is_dir():
            check_tokenizer_files(Path(config.text_encoder))
            self.inputs["text_encoder"] = weights_sha256(Path(config.text_encoder))

    def detect(self, pictures: Sequence[Picture]) -> list[Found]:
        """The boxes of each picture that fit some phrase better than the threshold.

        Raises BackendError, CheckpointError or UsageError when the worker cannot start, UnreadableImage when pictures
        end it, StageStopped when every picture does.
        """
        return [self._found(result) for result in self._results([picture.path for picture in pictures])]

    def rejected(self) -> Iterator[Rejected]:
        """Nothing: every picture is looked at."""
        return iter(())

    def close(self) -> None:
        """End the worker, for good."""
        with self._starting:
            self._closed = True
            if self._worker is not None:
                self._worker.close()

    def _results(self, paths: Sequence[Path]) -> list[dict[str, Any]]:
        with suppress(WorkerEnded):
            return self._ask(paths)
        try:
            return self._ask(paths)
        except WorkerEnded as ended:
            if len(paths) == 1:
                self._ask_about_plain_picture()
            raise UnreadableImage("worker_ended", f"{ended.how}, twice, with this picture alone") from None

    def _ask(self, paths: Sequence[Path]) -> list[dict[str, Any]]:
        try:
            return (self._worker or self._start_worker()).ask(paths)
        except WorkerEnded:
            self._worker = None
            raise

    def _ask_about_plain_picture(self) -> None:
        from PIL import Image

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plain.png"
            Image.new("RGB", PLAIN_SIZE, "gray").save(path)
            self._ask([path])

    def _start_worker(self) -> Worker:
        with self._starting:
            if self._closed:
                raise StageStopped("the run was ended; run the same command to continue")
            self._worker = worker = Worker(self._python, WORKER, self._worker_settings, self._log)
        try:
            worker.wait_until_ready()
        except PfcvrError:
            self._worker = None
            raise
        return worker

    def _found(self, result: dict[str, Any]) -> Found:
        if "reason" in result:
            raise UnreadableImage(result["reason"], result["detail"])
        return self._phrases.found(
            Answer(answer["phrase"], tuple(answer["box"]), answer["score"]) for answer in result["found"]
        )
