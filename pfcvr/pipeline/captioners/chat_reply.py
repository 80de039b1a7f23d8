"""What a chat completions endpoint sends back: an answer, or a trouble of a kind that says what to do about it."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from pfcvr.pipeline.captioners import plain_text

MESSAGE_CHARACTERS = 300
NAME_CHARACTERS = 200
# A snapshot's date that OpenAI appends to the name that was asked for.
DATED = re.compile(r"-\d{4}-?\d{2}-?\d{2}$")


@dataclass(frozen=True)
class Reply:
    """One answer. ``model`` is the name the server gives for what answered; counts are None where it gives none."""

    text: str
    finish_reason: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For keeping as JSON."""
        return asdict(self)


class Remedy(Enum):
    """What a trouble asks for."""

    AGAIN = "the same request once more, a little later"
    SLOWER = "the same request later, and fewer at a time"
    REJECT = "nothing: this request will never be answered"
    STOP = "an end of the run: no request will be answered"


@dataclass(frozen=True)
class Trouble:
    """Why a request has no answer. ``wait`` is the number of seconds the server asked for."""

    remedy: Remedy
    reason: str
    detail: str
    wait: float | None = None


def read_reply(status: int, headers: Mapping[str, str], body: bytes, model: str) -> Reply | Trouble:
    """The answer in a whole response to a request for ``model``, or what is wrong with it.

    Reasons: overloaded, server_error, broken_answer, other_model, request_refused, request_too_large, quota_used_up,
    key_refused, not_served.
    """
    value = _parsed(body)
    if status != 200:
        return _refusal(status, headers, _message(value, body), _error_code(value))
    if not isinstance(value, dict):
        return Trouble(Remedy.AGAIN, "broken_answer", "the answer is no JSON object")
    if value.get("error") is not None:
        return Trouble(Remedy.AGAIN, "server_error", f"200 OK with an error inside: {_message(value, body)}")
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return Trouble(Remedy.AGAIN, "broken_answer", "the answer holds no choice with a message")
    finish_reason = _name(choice.get("finish_reason"))
    if finish_reason in ("error", "abort"):
        return Trouble(Remedy.AGAIN, "server_error", f"the server ended the answer with '{finish_reason}'")
    answered = _name(value.get("model"))
    if answered is not None and not same_model(model, answered):
        return Trouble(Remedy.AGAIN, "other_model", f"'{answered}' answered where '{model}' was asked")
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=_text(message.get("content")) or _text(message.get("refusal")) or "",
        finish_reason=finish_reason,
        model=answered,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def same_model(asked: str, answered: str) -> bool:
    """Whether a server that says ``answered`` answered for ``asked``: case, an owner before it or a date after it."""
    names = [name.lower().rpartition("/")[2] for name in (asked, answered)]
    return names[0] == names[1] or names[0] == DATED.sub("", names[1])


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """What a Retry-After header asks for, as seconds or as a date; None where there is none that can be read."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = parsedate_to_datetime(value)
        except ValueError:
            return None
        now = datetime.now(UTC) if then.tzinfo is not None else datetime.now()
        seconds = (then - now).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None


def _refusal(status: int, headers: Mapping[str, str], message: str, code: str | None) -> Trouble:
    detail = f"{status}: {message}"
    if code == "insufficient_quota" or status == 402:
        return Trouble(Remedy.STOP, "quota_used_up", detail)
    if status in (429, 503):
        return Trouble(Remedy.SLOWER, "overloaded", detail, seconds_to_wait(headers))
    if status >= 500 or status in (408, 409, 425):
        return Trouble(Remedy.AGAIN, "server_error", detail)
    if status in (401, 403):
        return Trouble(Remedy.STOP, "key_refused", str(status))
    if status in (404, 405) or status < 400:
        return Trouble(Remedy.STOP, "not_served", detail)
    return Trouble(Remedy.REJECT, "request_too_large" if status == 413 else "request_refused", detail)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _message(value: Any, body: bytes) -> str:
    """The server's own words, wherever it put them, cut short."""
    found = value
    while isinstance(found, dict):
        found = next((found[key] for key in ("error", "message", "detail") if found.get(key)), "no message")
    text = found if isinstance(found, str) else body.decode(errors="replace")
    return plain_text(text)[:MESSAGE_CHARACTERS]


def _error_code(value: Any) -> str | None:
    error = value.get("error") if isinstance(value, dict) else None
    return _text(error.get("code")) if isinstance(error, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _name(value: Any) -> str | None:
    return plain_text(value)[:NAME_CHARACTERS] if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
