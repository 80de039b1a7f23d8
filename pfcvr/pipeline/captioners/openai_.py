"""Captions from any server that speaks OpenAI's chat completions: ``vllm serve``, SGLang, llama.cpp, a paid service."""

from pfcvr.config import CaptionConfig
from pfcvr.errors import UsageError
from pfcvr.pipeline.captioners.answer_source import Servers
from pfcvr.pipeline.captioners.chat_captioner import ChatCaptioner, sealed_model
from pfcvr.pipeline.captioners.chat_client import Retries
from pfcvr.pipeline.captioners.endpoint import EXAMPLE, api_key, base_url, choose_model
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

RETRIES = Retries()


class OpenAICaptioner(ChatCaptioner):
    """Asks the server at ``config.base_url``, with the key in OPENAI_API_KEY if there is one.

    Without ``config.model`` the server says which one it has, unless captions are sealed that differ in nothing else.
    """

    def __init__(self, workspace: Workspace, config: CaptionConfig, options: RunOptions) -> None:
        if config.base_url is None:
            raise UsageError(f"captioner 'openai' needs the server's address; give it with --base-url {EXAMPLE}")
        url = base_url(config.base_url)
        servers = Servers("openai", lambda: [url], RETRIES)
        model = config.model or sealed_model(workspace, config, servers) or choose_model(url, api_key(), None)
        super().__init__(workspace, config, options, servers, model)
