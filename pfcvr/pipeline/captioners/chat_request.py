"""The body of a chat completions request: instruction, image, question, and how the answer is to be drawn."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pfcvr.pipeline.captioners.judge import changed_sampling
from pfcvr.pipeline.captioners.prompt import Prompt

PROBE_TOKENS = 16
PROBE_QUESTION = "There is no picture this time. Answer anything."


@dataclass(frozen=True)
class Drawing:
    """How one answer is drawn, in the names of the interface; part of what an answer is kept under."""

    sampling: Mapping[str, float | int]
    max_tokens: int
    seed: int

    def as_dict(self) -> dict[str, float | int]:
        """All parameters in one."""
        return {**self.sampling, "max_tokens": self.max_tokens, "seed": self.seed}


def drawing(prompt: Prompt, attempt: int, seed: int, cut_off_before: bool) -> Drawing:
    """For the ``attempt``-th answer about an image, from 0: another draw each time.

    The budget is doubled once an earlier answer ``cut_off_before`` was cut off at it.
    """
    max_tokens = prompt.max_tokens * (2 if cut_off_before else 1)
    return Drawing(changed_sampling(prompt.sampling, attempt), max_tokens, seed + attempt)


def caption_body(model: str, prompt: Prompt, draw: Drawing, jpeg: bytes) -> bytes:
    """The request for one image. The instruction is the same for all of them and comes first, for prefix caches."""
    address = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "text", "text": prompt.user},
    ]
    return _body(model, prompt, draw.as_dict(), content)


def probe_body(model: str, prompt: Prompt, draw: Drawing) -> bytes:
    """A request with the parameters of the real ones, without an image and with next to nothing to answer."""
    return _body(model, prompt, {**draw.as_dict(), "max_tokens": PROBE_TOKENS}, PROBE_QUESTION)


def chat_body(model: str, content: str | list[dict[str, Any]], schema: dict[str, Any] | None, **values: Any) -> bytes:
    """A request with one message of the user, for questions that are no captions."""
    message = {"role": "user", "content": content}
    return json.dumps({"model": model, "messages": [message], **values, **_format(schema)}).encode()


def _body(model: str, prompt: Prompt, values: dict[str, Any], content: str | list[dict[str, Any]]) -> bytes:
    messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": content}]
    return json.dumps({"model": model, "messages": messages, **values, **_format(prompt.json_schema)}).encode()


def _format(schema: dict[str, Any] | None) -> dict[str, Any]:
    if schema is None:
        return {}
    named = {"name": "caption", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}
