"""What the Hub, its client or the connection refuse, as one sentence, and patience with what passes by itself."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from pfcvr.errors import HubError

WAITS = (2.0, 8.0, 20.0)  # seconds, beside the client's own repetitions of single requests
TRANSIENT = (408, 409, 429, 500, 502, 503, 504)
TOKEN = re.compile(r"hf_\w+")
SENDABLE = re.compile("[!-~]*")  # what the header that carries the token can hold

Result = TypeVar("Result")


def check_token(name: str, token: str | bool | None = None) -> None:
    """Raises HubError where what should open ``name`` cannot be an access token; it is not shown.

    ``token`` None or true is the one of this machine, false none at all.
    """
    from huggingface_hub import get_token

    sent = token if isinstance(token, str) else get_token()
    if token is not False and sent is not None and not SENDABLE.fullmatch(sent):
        raise HubError(
            f"{name}: the access token holds characters that no token of the Hub has; copy it anew from its page, and "
            "run hf auth login or set HF_TOKEN"
        )


def patiently(name: str, call: Callable[[], Result], waits: tuple[float, ...] = WAITS) -> Result:
    """What ``call`` returns; failures that pass are waited for (seconds), others become one sentence about ``name``.

    Raises HubError for what the Hub, its client or the connection refuse, and anything else as it is.
    """
    for wait in (*waits, None):
        try:
            return call()
        except Exception as error:
            cause = hub_cause(error)
            if cause is None:
                raise
            if wait is None or not _passes(cause):
                raise HubError(f"{name}: {refusal(cause)}") from cause
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def must_be_there(name: str, kind: Literal["dataset", "model"], asked: str) -> None:
    """Raise HubError, about what was ``asked``, where the Hub does not know ``name`` or is not reached.

    One question settles it. The client's downloads repeat theirs for half a minute, which is long for a mistyped path.
    What was downloaded before is not asked about, nor does a machine ask that is offline by choice.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    downloaded = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type=kind))
    if not downloaded.exists() and not constants.HF_HUB_OFFLINE:
        patiently(asked, lambda: HfApi().repo_info(name, repo_type=kind), waits=())


def hub_cause(error: BaseException) -> BaseException | None:
    """The error of the Hub, of its client or of the connection that is behind ``error``, if one is."""
    import httpx2
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    kinds = (httpx2.HTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled)
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, kinds):
        seen = seen.__cause__ or seen.__context__
    return seen


def refusal(error: BaseException) -> str:
    """What the Hub or the connection said, and what to do, as the rest of a sentence."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled, RevisionNotFoundError

    status = status_of(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub is switched off on this machine; unset HF_HUB_OFFLINE and run the same command again"
    if isinstance(error, HFValidationError):
        return f"not a name that the Hub takes ({quoted(error)}); give it as OWNER/NAME"
    if isinstance(error, GatedRepoError):
        return "its owners let readers in one by one; ask for access on its page, then run the same command again"
    if isinstance(error, RevisionNotFoundError):
        return "what was given as revision is no branch of the repository (404); give the name of a branch"
    if status == 401 or (status is None and "oken" in type(error).__name__):
        if get_token() is None:
            return "the Hub wants an access token; run hf auth login or set HF_TOKEN, then run the same command again"
        return (
            "the Hub does not accept the access token of this machine (401); run hf auth login, or set HF_TOKEN to a "
            "valid one, then run the same command again"
        )
    known = {
        403: "the access token may not do that (403); use one that may write to this owner's repositories",
        404: "the Hub has no such repository, or the access token may not see it (404); check the name and the token",
        409: "somebody else is changing the repository (409); run the same command again in a while",
        412: "somebody else changed the repository meanwhile (412); run the same command again",
        413: "the Hub takes no files as large as these (413); ask for more storage on its page",
        429: "the Hub wants fewer requests (429); run the same command again in an hour, it continues",
    }
    if status is not None:
        if status >= 500:
            return f"the Hub has trouble ({status}); run the same command again later, it continues"
        return known.get(status, f"the Hub refused it ({status}: {quoted(error)}); correct that and run it again")
    return (
        f"no connection to {constants.ENDPOINT} ({type(error).__name__}); check the network and run the same command "
        "again, it continues"
    )


def status_of(error: BaseException | None) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _passes(error: BaseException) -> bool:
    """Whether the same may succeed a little later."""
    import httpx2

    return isinstance(error, httpx2.TransportError) or status_of(error) in TRANSIENT


def quoted(error: BaseException) -> str:
    """The first line of a message, without anything that looks like a token."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return TOKEN.sub("***", lines[0])
