"""``--captioner vllm``: captions from vLLM servers that are started for the run and ended with it."""

import sys
import threading
from pathlib import Path

from pfcvr.config import CaptionConfig
from pfcvr.errors import UsageError
from pfcvr.files import sha256_file
from pfcvr.pipeline.captioners.answer_source import Servers
from pfcvr.pipeline.captioners.chat_captioner import ChatCaptioner
from pfcvr.pipeline.captioners.chat_client import Retries
from pfcvr.pipeline.captioners.vllm_server import (
    ServerPlan,
    VllmServer,
    shares,
    visible_devices,
)
from pfcvr.pipeline.weights import WEIGHT_FILES, weights_sha256
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

RETRIES = Retries(patience=900.0)  # seconds in which a server that ended has to come up again
VLLM_FILES = (*WEIGHT_FILES, "*.bin", "*.pt", "*.gguf", "*.py")


class VllmCaptioner(ChatCaptioner):
    """Starts ``config.replicas`` servers for ``config.model`` before the first row, and spreads the requests.

    What the servers write goes to ``caption/vllm-N.log`` in the workspace. Answers do not depend on how many servers
    there are, nor on their options, as far as captions are kept: these do not count as other inputs. Weights that lie
    here are known by their hash, and named by the last step of their path alone.
    """

    def __init__(self, workspace: Workspace, config: CaptionConfig, options: RunOptions) -> None:
        if config.model is None:
            raise UsageError("captioner 'vllm' needs a model, by name or folder; give it with --model")
        if config.base_url is not None:
            raise UsageError(
                "captioner 'vllm' starts its own server; for one that runs already use --captioner openai --base-url"
            )
        self._ending = threading.Event()
        self._running: list[VllmServer] = []
        source = Servers("vllm", self._start_servers, RETRIES, _local_sha256(Path(config.model)))
        name = config.model if source.weights_sha256 is None else Path(config.model).resolve().name
        super().__init__(workspace, config, options, source, name)

    def give_up(self) -> None:
        self._ending.set()
        super().give_up()

    def close(self) -> None:
        self._ending.set()
        super().close()
        for server in self._running:
            server.stop()

    def _start_servers(self) -> list[str]:
        config, folder = self._config, self._workspace.folder("caption")
        if self._running:
            return [server.base_url for server in self._running]
        for number, devices in enumerate(shares(visible_devices(), config.replicas)):
            plan = ServerPlan(
                model=str(config.model),
                served_name=self._model,
                python=str(config.python or sys.executable),
                arguments=config.server_args,
                log=folder / f"vllm-{number}.log",
                devices=devices,
                name=f"vLLM server {number}",
            )
            self._running.append(VllmServer(plan, self.stop, self._ending))
        for server in self._running:
            server.launch()
        for server in self._running:
            server.wait_until_ready()
        return [server.base_url for server in self._running]


def _local_sha256(model: Path) -> str | None:
    """The hash of weights in a folder or file here; None for a name on the Hub."""
    if model.is_dir():
        return weights_sha256(model, VLLM_FILES)
    return sha256_file(model) if model.is_file() else None
