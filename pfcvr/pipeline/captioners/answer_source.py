"""Where the answers of a chat captioner come from: servers, or a model in this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pfcvr.config import CaptionConfig
from pfcvr.errors import PfcvrError
from pfcvr.pipeline.captioners.chat_client import Answered, ChatClient, ClientSettings, Keep, Retries, forget
from pfcvr.pipeline.captioners.chat_request import drawing, probe_body
from pfcvr.pipeline.captioners.endpoint import api_key, choose_model
from pfcvr.pipeline.captioners.prompt import Prompt


class Answerer(Protocol):
    """Answers chat requests until it is stopped; see ``ChatClient``."""

    def ask(self, body: bytes, keep: Keep = forget) -> Answered: ...

    def live(self) -> str: ...

    def stop(self, error: PfcvrError) -> None: ...

    def close(self) -> None: ...


class AnswerSource(Protocol):
    """Where answers come from; ``captioner`` is its name in records. Nothing is started before ``open``."""

    @property
    def captioner(self) -> str: ...

    @property
    def depends_on(self) -> dict[str, Any]:
        """What the answers depend on besides model, prompt, picture and sampling; JSON values."""
        ...

    def open(self, config: CaptionConfig, model: str, prompt: Prompt) -> Answerer: ...


@dataclass(frozen=True)
class Servers:
    """``base_urls`` starts or finds equal servers, which are asked with ``retries``.

    Of weights that lie here the hash is known; of others the model's name has to do.
    """

    captioner: str
    base_urls: Callable[[], Sequence[str]]
    retries: Retries = Retries()
    weights_sha256: str | None = None

    @property
    def depends_on(self) -> dict[str, Any]:
        return {} if self.weights_sha256 is None else {"weights_sha256": self.weights_sha256}

    def open(self, config: CaptionConfig, model: str, prompt: Prompt) -> ChatClient:
        """A client of the servers, once all of them have ``model``."""
        key = api_key()
        urls = self.base_urls()
        for url in urls:
            choose_model(url, key, model)
        settings = ClientSettings(
            base_urls=urls,
            model=model,
            concurrency=config.concurrency,
            timeout=config.timeout,
            retries=self.retries,
        )
        return ChatClient(settings, probe_body(model, prompt, drawing(prompt, 0, config.seed, False)), key)
