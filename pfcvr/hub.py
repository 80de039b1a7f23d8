"""Publishing a folder on the Hugging Face Hub: what both halves need of ``huggingface_hub``, with its errors in words.

A publication is a folder that is complete before anything is sent. Its ``pfcvr.json`` names every file with its hash,
so that a rerun sends what is missing, and a repository that holds something else is told from one that was interrupted.
The access token is the one of this machine (``hf auth login`` or HF_TOKEN); it is never printed.
"""

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

from pfcvr.errors import HubError
from pfcvr.files import sha256_file

MANIFEST_NAME = "pfcvr.json"
HUB_OWN_FILES = frozenset({".gitattributes"})  # the Hub writes it into every new repository
WAITS = (2.0, 8.0, 20.0)  # seconds, beside the client's own repetitions of single requests
TRANSIENT = (408, 409, 429, 500, 502, 503, 504)
SHOWN = 3
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TOKEN = re.compile(r"hf_\w+")
SENDABLE = re.compile("[!-~]*")  # what the header that carries the token can hold

Kind = Literal["dataset", "model"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: SHA-256 where it lies in the store for large files, else its git blob id."""

    sha256: str | None
    blob_id: str

    def holds(self, path: Path) -> bool:
        """Whether it has the bytes of the local ``path``."""
        if self.sha256 is not None:
            return self.sha256 == sha256_file(path)
        content = path.read_bytes()
        return self.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Standing:
    """A repository as it is: its newest commit, who may see it, and its files but those that the Hub makes."""

    commit: str
    private: bool
    gated: bool
    files: dict[str, RemoteFile]


@dataclass(frozen=True)
class Publication:
    """What is to be published. ``restricted``: private and, for those who are let in, gated, before the first byte.

    ``private`` None leaves a repository that exists as it is, and a new one to the account's own rule. ``message`` is
    that of the commit.
    """

    folder: Path
    name: str
    kind: Kind
    private: bool | None = None
    restricted: bool = False
    message: str = "Publish with pfcvr"

    @property
    def files(self) -> dict[str, Path]:
        """Every file by its name in the repository."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in paths}


@dataclass(frozen=True)
class Published:
    """Where a publication lies now; ``sent`` files were not there before, ``kept`` were."""

    url: str
    commit: str
    sent: int
    kept: int
    removed: tuple[str, ...] = ()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that was made for publication; raises HubError where there is none."""
    try:
        content = json.loads((folder / MANIFEST_NAME).read_bytes())
    except (FileNotFoundError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise HubError(
            f"{folder}: no {MANIFEST_NAME} that can be read; rerun with --overwrite to write the folder again"
        )
    return content


def publish(publication: Publication, overwrite: bool = False, token: str | bool | None = None) -> Published:
    """Bring ``publication`` to the Hub, or what is missing of it, and compare every file there with the one here.

    With ``overwrite`` files of the same name are replaced and those of an earlier publication of ours removed;
    files of others stay. ``token`` None is the one of this machine.

    Raises:
        HubError: the Hub refused something, was not reached, or the repository holds something else.
    """
    hub = HubRepository(publication.name, publication.kind, token)
    files = publication.files
    standing = hub.standing()
    outdated: tuple[str, ...] = ()
    if standing is None:
        hub.create(private=True if publication.restricted else publication.private)
    else:
        outdated = _outdated(hub, standing, files) if overwrite else ()
        if not overwrite:
            _refuse_other_content(publication, standing)
    _close_doors(hub, publication)
    before = hub.standing()
    if before is None:
        raise HubError(f"{publication.name}: the Hub does not show the repository that was made; run the same again")
    kept = sum(name in before.files and before.files[name].holds(path) for name, path in files.items())
    if kept < len(files) or outdated:
        hub.upload(publication, before.commit, outdated)
    arrived = hub.standing()
    wrong = [
        n for n, path in files.items() if arrived is None or n not in arrived.files or not arrived.files[n].holds(path)
    ]
    if arrived is None or wrong:
        raise HubError(
            f"{publication.name}: {_some(wrong)} did not arrive as they are here; run the same command again"
        )
    return Published(hub.url, arrived.commit, len(files) - kept, kept, outdated)


class HubRepository:
    """One repository on the Hub, asked through ``HfApi``; every refusal is a HubError."""

    def __init__(self, name: str, kind: Kind, token: str | bool | None = None) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        check_token(name, token)
        self.name, self.kind = name, kind
        self._api = HfApi(token=token)

    @property
    def url(self) -> str:
        prefix = "datasets/" if self.kind == "dataset" else ""
        return f"{self._api.endpoint}/{prefix}{self.name}"

    def standing(self) -> Standing | None:
        """The repository as it is now; None when there is none that this machine's token may see."""
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            info: Any = self._ask(self._api.repo_info, self.name, repo_type=self.kind)
        except HubError as error:
            cause = error.__cause__
            missing = isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError)
            if missing and _status(cause) == 404:
                return None
            raise
        listed: Any = self._ask(
            lambda: list(self._api.list_repo_tree(self.name, recursive=True, revision=info.sha, repo_type=self.kind)),
        )
        files = {
            entry.path: RemoteFile(entry.lfs.sha256 if entry.lfs is not None else None, entry.blob_id)
            for entry in listed
            if isinstance(entry, RepoFile) and entry.path not in HUB_OWN_FILES
        }
        return Standing(str(info.sha), bool(info.private), bool(info.gated), files)

    def create(self, private: bool | None) -> None:
        self._ask(self._api.create_repo, self.name, repo_type=self.kind, private=private, exist_ok=True)

    def set_private(self) -> None:
        self._ask(self._api.update_repo_settings, self.name, private=True, repo_type=self.kind)

    def restrict(self) -> None:
        """Private, and each reader to be let in by hand should it ever be opened."""
        self._ask(
            self._api.update_repo_settings,
            self.name,
            private=True,
            gated="manual",
            repo_type=self.kind,
        )

    def upload(self, publication: Publication, parent: str, remove: tuple[str, ...]) -> None:
        """Send what is not there yet; refused when somebody else has committed since ``parent``."""
        try:
            self._ask(
                self._api.upload_folder,
                repo_id=self.name,
                repo_type=self.kind,
                folder_path=publication.folder,
                commit_message=publication.message,
                parent_commit=parent,
                delete_patterns=list(remove) or None,
            )
        except (RuntimeError, OSError) as error:  # what the transfer by Xet raises has no common kind
            if getattr(error, "filename", None) is not None:
                raise
            raise HubError(
                f"{self.name}: the transfer broke off ({_quoted(error)}); run the same command again, it continues"
            ) from error

    def read_file(self, name: str, revision: str | None = None) -> bytes:
        """What is in the file ``name``."""
        with TemporaryDirectory() as folder:
            path = self._ask(
                self._api.hf_hub_download,
                self.name,
                name,
                repo_type=self.kind,
                revision=revision,
                local_dir=folder,
            )
            return Path(path).read_bytes()

    def read_json(self, name: str, revision: str | None = None) -> dict[str, Any]:
        """The JSON object in the file ``name``; empty where it is something else."""
        try:
            content = json.loads(self.read_file(name, revision))
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _ask(self, call: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        return patiently(self.name, lambda: call(*arguments, **options))


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
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled

    status = _status(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub is switched off on this machine; unset HF_HUB_OFFLINE and run the same command again"
    if isinstance(error, HFValidationError):
        return f"not a name that the Hub takes ({_quoted(error)}); give it as OWNER/NAME"
    if isinstance(error, GatedRepoError):
        return "its owners let readers in one by one; ask for access on its page, then run the same command again"
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
        return known.get(status, f"the Hub refused it ({status}: {_quoted(error)}); correct that and run it again")
    return (
        f"no connection to {constants.ENDPOINT} ({type(error).__name__}); check the network and run the same command "
        "again, it continues"
    )


def _status(error: BaseException | None) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _passes(error: BaseException) -> bool:
    """Whether the same may succeed a little later."""
    import httpx2

    return isinstance(error, httpx2.TransportError) or _status(error) in TRANSIENT


def _quoted(error: BaseException) -> str:
    """The first line of a message, without anything that looks like a token."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return TOKEN.sub("***", lines[0])


def _close_doors(hub: HubRepository, publication: Publication) -> None:
    """Make the repository as closed as it has to be, and see that it is."""
    if not (publication.restricted or publication.private):
        return
    standing = hub.standing()
    if publication.restricted and not (standing and standing.private and standing.gated):
        hub.restrict()
    elif standing is None or not standing.private:
        hub.set_private()
    standing = hub.standing()
    if standing is None or not standing.private or (publication.restricted and not standing.gated):
        wanted = "private and gated" if publication.restricted else "private"
        raise HubError(
            f"{publication.name}: the Hub did not make the repository {wanted}, so nothing was uploaded; do it on the "
            "repository's settings page, then run the same command again"
        )


def _refuse_other_content(publication: Publication, standing: Standing) -> None:
    """Raises HubError unless every file there is one of the publication's, with the same bytes."""
    files = publication.files
    other = [name for name, file in standing.files.items() if name not in files or not file.holds(files[name])]
    if other:
        raise HubError(
            f"{publication.name}: the repository exists with other content ({_some(other)}); give another name, or "
            "rerun with --overwrite to replace files of the same name and those of an earlier publication"
        )


def _outdated(hub: HubRepository, standing: Standing, files: dict[str, Path]) -> tuple[str, ...]:
    """Files of an earlier publication of ours that have no successor, as its own manifest names them."""
    if MANIFEST_NAME not in standing.files:
        return ()
    listed = hub.read_json(MANIFEST_NAME, standing.commit).get("files", {})
    ours = [name for name in listed if isinstance(name, str)] if isinstance(listed, dict) else []
    return tuple(sorted(name for name in ours if name in standing.files and name not in files))


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown
