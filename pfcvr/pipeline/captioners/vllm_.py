"""``--captioner vllm``: captions from vLLM servers that are started for the run and ended with it."""

import sys
import threading

from pfcvr.config import CaptionConfig
from pfcvr.errors import UsageError
from pfcvr.pipeline.captioners.chat_captioner import ChatCaptioner, Servers
from pfcvr.pipeline.captioners.chat_client import Retries
from pfcvr.pipeline.captioners.vllm_server import (
    ServerPlan,
    VllmServer,
    shares,
    visible_devices,
)
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

RETRIES = Retries(patience=900.0)  # seconds in which a server that ended has to come up again


class VllmCaptioner(ChatCaptioner):
    """Starts ``config.replicas`` servers for ``config.model`` before the first row, and spreads the requests.

    What the servers write goes to ``caption/vllm-N.log`` in the workspace. Answers do not depend on how many servers
    there are, nor on their options, as far as captions are kept: these do not count as other inputs.
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
        super().__init__(workspace, config, options, Servers("vllm", self._start_servers, RETRIES), config.model)

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
                model=self._model,
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
