"""Where an OpenAI-compatible server is, who may ask it, and which models it has."""

import json
import os
from typing import Any, TypedDict

import httpx2

from pfcvr.errors import ServerError, UsageError

KEY_VARIABLE = "OPENAI_API_KEY"
EXAMPLE = "http://127.0.0.1:8000/v1"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
SECONDS_FOR_A_LIST = 20.0
NAMES_SHOWN = 8


class _ClientOptions(TypedDict):
    headers: dict[str, str]
    timeout: httpx2.Timeout
    limits: httpx2.Limits
    trust_env: bool


def api_key() -> str | None:
    """The key from the environment, or None; never to be shown or recorded."""
    return os.environ.get(KEY_VARIABLE, "").strip() or None


def without_key(text: str, key: str | None) -> str:
    """``text`` fit to be shown, whatever a server echoed."""
    return text.replace(key, "***") if key else text


def base_url(text: str) -> str:
    """``text`` as the address below which the interface lies: no slash at the end, ``/v1`` where it has no path.

    Raises UsageError for what is no http address, and for one with a user name or password in it.
    """
    try:
        url = httpx2.URL(text.strip())
    except httpx2.InvalidURL as error:
        raise UsageError(f"--base-url is no address ({error}); give one such as {EXAMPLE}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"--base-url '{text}' is no http address; give one such as {EXAMPLE}")
    if url.userinfo:
        raise UsageError(f"--base-url holds a user name or password; leave it out and put the key in {KEY_VARIABLE}")
    return str(url.copy_with(path="/v1")) if url.path == "/" else str(url).rstrip("/")


def http_client(url: str, key: str | None, connections: int) -> httpx2.AsyncClient:
    """A client for ``connections`` at a time that leaves deadlines to its caller."""
    return httpx2.AsyncClient(**_options(url, key, httpx2.Timeout(None), connections))


def choose_model(url: str, key: str | None, model: str | None) -> str:
    """``model`` if the server at ``url`` has it, or the only one it has; a server that lists none is believed.

    Raises ServerError when there is no such server, it is of another kind, refuses the key, or lacks the model.
    """
    names = served_models(url, key)
    if model is None:
        if names is None or len(names) != 1:
            has = "does not list its models" if not names else f"has {len(names)} models: {_listed(names)}"
            raise ServerError(f"{url}: the server {has}; choose one with --model")
        return names[0]
    if names is not None and model not in names:
        raise ServerError(f"{url}: the server has no model '{model}'; it has: {_listed(names)}")
    return model


def served_models(url: str, key: str | None) -> list[str] | None:
    """The names that ``GET /models`` lists; None where a server has no such list. Raises as ``choose_model`` does."""
    try:
        with httpx2.Client(**_options(url, key, httpx2.Timeout(SECONDS_FOR_A_LIST), 1)) as client:
            response = client.get(f"{url}/models")
    except (httpx2.HTTPError, OSError) as error:
        what = without_key(str(error), key) or type(error).__name__
        raise ServerError(f"{url}: no server answers there ({what}); start it or correct --base-url") from None
    status = response.status_code
    if status in (401, 403):
        refused = f"refuses the key in {KEY_VARIABLE}" if key else f"asks for a key; set {KEY_VARIABLE}"
        raise ServerError(f"{url}: the server {refused} (status {status})")
    if status in (404, 405):
        return None
    names = _names(response.content) if status == 200 else None
    if names is None:
        found = f"GET /models gave status {status}" + ("" if status != 200 else " and no list of models")
        raise ServerError(
            f"{url}: not an OpenAI-compatible server, or not ready ({found}); give an address such as {EXAMPLE}"
        )
    return names


def _options(url: str, key: str | None, timeout: httpx2.Timeout, connections: int) -> _ClientOptions:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    return {
        "headers": headers,
        "timeout": timeout,
        "limits": httpx2.Limits(max_connections=connections + 2, max_keepalive_connections=connections),
        # A proxy of the environment is for the world outside, not for a server on this machine.
        "trust_env": httpx2.URL(url).host not in LOOPBACK,
    }


def _names(content: bytes) -> list[str] | None:
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        return None
    rows = value.get("data") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        return None
    return [row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(sorted(names)[:NAMES_SHOWN]) or "none") + more
