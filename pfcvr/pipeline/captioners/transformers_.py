"""``--captioner transformers``: captions by a small vision-language model in this process, on a GPU or on the CPU.

One image at a time: for thousands of images a vLLM server is many times faster. No schema can be imposed here, so the
JSON object is looked for in the answer, and the judge refuses what is none.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pfcvr.config import CaptionConfig
from pfcvr.errors import BackendError, UsageError
from pfcvr.pipeline.captioners.chat_captioner import ChatCaptioner
from pfcvr.pipeline.captioners.prompt import Prompt
from pfcvr.pipeline.captioners.transformers_model import LocalModel
from pfcvr.pipeline.inference import Inference
from pfcvr.pipeline.weights import find_weights, weights_sha256
from pfcvr.records import ImageRecord
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

PACKAGES = ("torch", "torchvision", "transformers")
THREADS = 4  # one waits for the model while the others prepare the next images


class TransformersCaptioner(ChatCaptioner):
    """Asks the model of the folder or Hub name ``config.model``; asks, judges and keeps answers as with a server."""

    def __init__(self, workspace: Workspace, config: CaptionConfig, options: RunOptions) -> None:
        if config.model is None:
            raise UsageError(
                "captioner 'transformers' needs a model; give --model with a folder, or with a name on the Hub"
            )
        if config.base_url is not None:
            raise UsageError(
                "captioner 'transformers' asks no server; for the one at --base-url use --captioner openai"
            )
        missing = [package for package in PACKAGES if find_spec(package) is None]
        if missing:
            raise BackendError(
                f"captioner 'transformers' needs the package '{missing[0]}'; in the clone run: "
                "pip install -e '.[captions]'"
            )
        folder = find_weights(config.model)
        source = _Weights(folder, weights_sha256(folder), Inference(config))
        # Records name a folder without its place: what it holds is known by the hash.
        name = folder.resolve().name if Path(config.model).is_dir() else config.model
        super().__init__(workspace, config, options, source, name)
        self.workers = THREADS

    def _expected_vision_tokens(self, image: ImageRecord) -> None:
        """Nothing to compare with: models count in ways of their own, and LocalModel sees to it that pixels go in."""


@dataclass(frozen=True)
class _Weights:
    """A source of answers: the model in ``folder``, loaded when the first answer is wanted."""

    folder: Path
    sha256: str
    inference: Inference
    captioner: str = "transformers"

    @property
    def depends_on(self) -> dict[str, Any]:
        return {"weights_sha256": self.sha256, **self.inference.settings}

    def open(self, config: CaptionConfig, model: str, prompt: Prompt) -> LocalModel:
        return LocalModel(self.folder, self.inference, revision=f"sha256:{self.sha256}")
