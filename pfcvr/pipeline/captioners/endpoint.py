"""Where an OpenAI-compatible server is, who may ask it, and which models it has."""

import asyncio
import ipaddress
import json
import os
from typing import Any, TypedDict

import httpx2

from pfcvr.errors import ServerError, UsageError

KEY_VARIABLE = "OPENAI_API_KEY"
EXAMPLE = "http://127.0.0.1:8000/v1"
SECONDS_FOR_A_LIST = 20.0
LARGEST_ANSWER = 8 << 20  # bytes
NAMES_SHOWN, NAME_CHARACTERS = 8, 200


class _ClientOptions(TypedDict):
    headers: dict[str, str]
    timeout: httpx2.Timeout
    limits: httpx2.Limits
    trust_env: bool


def api_key() -> str | None:
    """The key from the environment, or None; never to be shown or recorded.

    Raises UsageError for one that no HTTP header can hold.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"{KEY_VARIABLE} holds white space or letters that no key has; copy the key into it anew")
    return key or None


def without_key(text: str, key: str | None) -> str:
    """``text`` fit to be shown, whatever a server echoed."""
    return text.replace(key, "***") if key else text


def base_url(text: str) -> str:
    """``text`` as the address below which the interface lies: no slash at the end, ``/v1`` where it has no path.

    Raises UsageError for what is no http address, and for one that holds more than an address, such as a key.
    """
    try:
        url = httpx2.URL(text.strip())
    except httpx2.InvalidURL as error:
        raise UsageError(f"--base-url is no address ({error}); give one such as {EXAMPLE}") from None
    if url.userinfo:
        raise UsageError(f"--base-url holds a user name or password; leave it out and put the key in {KEY_VARIABLE}")
    if url.query or url.fragment:
        raise UsageError(f"--base-url holds more than an address, after '?' or '#'; a key belongs into {KEY_VARIABLE}")
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"--base-url '{text}' is no http address; give one such as {EXAMPLE}")
    if url.port is not None and not 0 < url.port < 65536:
        raise UsageError(f"--base-url '{text}' has no port from 1 to 65535; give an address such as {EXAMPLE}")
    return str(url.copy_with(path="/v1")) if url.path == "/" else str(url).rstrip("/")


def http_client(url: str, key: str | None, connections: int) -> httpx2.AsyncClient:
    """A client for ``connections`` at a time that leaves deadlines to its caller."""
    return httpx2.AsyncClient(**_options(url, key, connections))


async def whole_body(response: httpx2.Response) -> bytes | None:
    """The body of a response that was opened as a stream, as it was sent; None for more than LARGEST_ANSWER bytes."""
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > LARGEST_ANSWER:
            return None
    return bytes(content)


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
        status, content = asyncio.run(_get(f"{url}/models", key))
    except TimeoutError:
        raise ServerError(
            f"{url}: no whole list of models within {SECONDS_FOR_A_LIST:g} s; look at the server or correct --base-url"
        ) from None
    except (httpx2.HTTPError, OSError) as error:
        what = without_key(str(error), key) or type(error).__name__
        raise ServerError(f"{url}: no server answers there ({what}); start it or correct --base-url") from None
    if status in (401, 403):
        refused = f"refuses the key in {KEY_VARIABLE}" if key else f"asks for a key; set {KEY_VARIABLE}"
        raise ServerError(f"{url}: the server {refused} (status {status})")
    if status in (404, 405):
        return None
    names = _names(content) if status == 200 and content is not None else None
    if names is None:
        found = f"GET /models gave status {status}" + ("" if status != 200 else " and no list of models")
        raise ServerError(
            f"{url}: not an OpenAI-compatible server, or not ready ({found}); give an address such as {EXAMPLE}"
        )
    return names


async def _get(url: str, key: str | None) -> tuple[int, bytes | None]:
    """Status and body; raises TimeoutError when they are not there within SECONDS_FOR_A_LIST."""
    async with (
        asyncio.timeout(SECONDS_FOR_A_LIST),
        http_client(url, key, 1) as client,
        client.stream("GET", url) as response,
    ):
        return response.status_code, await whole_body(response)


def _options(url: str, key: str | None, connections: int) -> _ClientOptions:
    # Nothing is unpacked here, so that a small answer cannot become a huge one.
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    address = httpx2.URL(url)
    if address.scheme == "http":
        # What a server sends too much on a connection would be read as the answer to the next request there, another
        # picture's; new connections cost little where nothing is encrypted.
        headers["connection"] = "close"
    return {
        "headers": headers,
        "timeout": httpx2.Timeout(None),
        "limits": httpx2.Limits(max_connections=connections + 2, max_keepalive_connections=connections),
        # A proxy of the environment is for the world outside, not for a server on this machine.
        "trust_env": not _is_this_machine(address.host),
    }


def _is_this_machine(host: str) -> bool:
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def _names(content: bytes) -> list[str] | None:
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        return None
    rows = value.get("data") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        return None
    names = [row.get("id") for row in rows if isinstance(row, dict)]
    # They go to terminals and into records: none that writes elsewhere on a screen than in its place.
    return [name for name in names if isinstance(name, str) and name.isprintable()]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(name[:NAME_CHARACTERS] for name in sorted(names)[:NAMES_SHOWN]) or "none") + more
