"""``--detector groundingdino``: the original ``groundingdino-py`` and its .pth checkpoints (Liu et al., 2023).

The package wants an older transformers than we do, so it lives in an environment of its own, whose interpreter
``--python`` names, and answers from there as a worker.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pfcvr.config import PartsConfig
from pfcvr.errors import CheckpointError, PfcvrError, UsageError
from pfcvr.files import sha256_file
from pfcvr.pipeline.images import UnreadableImage
from pfcvr.pipeline.phrases import Answer, load_phrases
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.pipeline.weights import weights_label, weights_sha256
from pfcvr.pipeline.workers.client import Worker
from pfcvr.records import Rejected
from pfcvr.store import Workspace

WORKER = "pfcvr.pipeline.workers.groundingdino"


class OriginalGroundingDinoDetector:
    """Boxes for part phrases, one picture at a time, from a worker that is started with the first picture."""

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
            self.inputs["text_encoder"] = weights_sha256(Path(config.text_encoder))

    def detect(self, pictures: Sequence[Picture]) -> list[Found]:
        """The boxes of each picture that fit some phrase better than the threshold.

        Raises BackendError, CheckpointError or UsageError when the worker cannot start, StageStopped when it has ended.
        """
        worker = self._worker or self._start_worker()
        return [self._found(result) for result in worker.ask([picture.path for picture in pictures])]

    def rejected(self) -> Iterator[Rejected]:
        """Nothing: every picture is looked at."""
        return iter(())

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()

    def _start_worker(self) -> Worker:
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
