"""One repository on the Hub: how it stands, and what can be done to it, through ``HfApi``."""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

from pfcvr.errors import HubError
from pfcvr.files import sha256_file
from pfcvr.hub.refusals import check_token, patiently, quoted, status_of

HUB_OWN_FILES = frozenset({".gitattributes"})  # the Hub writes it into every new repository

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
    """A repository as it is: its newest commit, who may see it, and its files but those that the Hub makes.

    ``begun`` is false for a branch that is not there: it stands as it would begin, which is as the main branch does.
    """

    commit: str
    private: bool
    gated: bool
    files: dict[str, RemoteFile]
    begun: bool = True


class HubRepository:
    """One repository on the Hub at ``revision`` (none: its main branch), through ``HfApi``; refusals are HubErrors."""

    def __init__(self, name: str, kind: Kind, token: str | bool | None = None, revision: str | None = None) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        check_token(name, token)
        self.name, self.kind, self.revision = name, kind, revision
        self._api = HfApi(token=token)
        if revision is not None and not re.search(r"\w", revision):  # would be another address
            raise self._no_branch()

    @property
    def url(self) -> str:
        prefix = "datasets/" if self.kind == "dataset" else ""
        return f"{self._api.endpoint}/{prefix}{self.name}"

    def standing(self) -> Standing | None:
        """The repository as it is now at its revision; None when there is none that the token may see."""
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            info, begun = self._info()
        except HubError as error:
            cause = error.__cause__
            missing = isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError)
            if missing and status_of(cause) == 404:
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
        return Standing(str(info.sha), bool(info.private), bool(info.gated), files, begun)

    def _info(self) -> tuple[Any, bool]:
        """What the Hub says of the repository at its revision, and true; of the main branch, and false."""
        from huggingface_hub.errors import RevisionNotFoundError

        try:
            return self._ask(self._api.repo_info, self.name, revision=self.revision, repo_type=self.kind), True
        except HubError as error:
            if not isinstance(error.__cause__, RevisionNotFoundError):
                raise
        return self._ask(self._api.repo_info, self.name, repo_type=self.kind), False

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

    def begin(self, commit: str) -> None:
        """Make the branch, from ``commit`` on."""
        where: dict[str, Any] = {"branch": self.revision, "revision": commit, "repo_type": self.kind}
        try:
            self._ask(self._api.create_branch, self.name, **where, exist_ok=True)
        except HubError as error:
            if status_of(error.__cause__) == 400:
                raise self._no_branch() from error.__cause__
            raise

    def upload(self, folder: Path, message: str, parent: str, remove: tuple[str, ...] = ()) -> None:
        """Send what is not there yet; refused when somebody else has committed since ``parent``."""
        with self._transfer():
            self._ask(
                self._api.upload_folder,
                repo_id=self.name,
                repo_type=self.kind,
                revision=self.revision,
                folder_path=folder,
                commit_message=message,
                parent_commit=parent,
                delete_patterns=list(remove) or None,
            )

    def propose(
        self, files: Mapping[str, Path], message: str, parent: str, remove: tuple[str, ...] = ()
    ) -> tuple[str | None, "HubRepository"]:
        """Open a pull request that brings ``files`` to ``parent``: its address, and the repository at its revision.

        None, and the main branch, where the Hub finds the same there meanwhile. It is asked for once: after an answer
        that was lost another request would open a second one.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions = [CommitOperationAdd(name, path) for name, path in files.items()]
        operations = [*additions, *(CommitOperationDelete(name) for name in remove)]
        how: dict[str, Any] = {"repo_type": self.kind, "create_pr": True}
        try:
            with self._transfer():
                self._ask(self._api.preupload_lfs_files, self.name, additions, free_memory=False, **how)
                how |= {"commit_message": message, "parent_commit": parent}
                opened = self._open(operations, how)
        except HubError as error:
            if status_of(error.__cause__) == 403:
                raise HubError(
                    f"{self.name}: the access token may not open a pull request there, or the repository takes none "
                    "(403); use a token with the role write, or publish under a name of your own"
                ) from error.__cause__
            raise
        return opened.pr_url, HubRepository(self.name, self.kind, self._api.token, opened.pr_revision)

    @contextmanager
    def _transfer(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError) as error:  # what the transfer by Xet raises has no common kind
            if getattr(error, "filename", None) is not None:
                raise
            raise HubError(
                f"{self.name}: the transfer broke off ({quoted(error)}); run the same command again, it continues"
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

    def _open(self, operations: list[Any], how: dict[str, Any]) -> Any:
        try:
            return patiently(self.name, lambda: self._api.create_commit(self.name, operations, **how), waits=())
        except HubError as error:
            status = status_of(error.__cause__)
            if status is not None and status < 500:
                raise
            raise HubError(
                f"{self.name}: the Hub did not say whether it opened the pull request; look for it on "
                f"{self.url}/discussions, and run the same command again if it is not there"
            ) from error.__cause__

    def _no_branch(self) -> HubError:
        return HubError(
            f"{self.name}: the Hub takes no branch of the name {self.revision!r}; give letters and digits, with - . or "
            "/ between them, or leave revision out for the main branch"
        )
