"""What the loopback Hub stores: repositories with commits, large files by hash, who may do what, and a journal."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

OWNER_TOKEN, READER_TOKEN, LOOKER_TOKEN = "hf_ownerownerowner", "hf_readerreaderreader", "hf_lookerlookerlooker"
ACCOUNTS = {OWNER_TOKEN: ("lab", "write"), READER_TOKEN: ("lab", "read"), LOOKER_TOKEN: ("somebody", "write")}
LARGE_SUFFIXES = (".parquet", ".safetensors", ".png", ".jpg")
NO_BRANCH = re.compile(r"refs/.*|[./-].*|.*[./]|.*(?:[\x00-\x20~^:?*\[\\\x7f]|\.\.|//|@\{).*", re.DOTALL)


class Refusal(Exception):
    """An answer that is not 200, as the Hub words it: ``code`` goes into X-Error-Code."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})
        self.headers["X-Error-Message"] = message
        if code:
            self.headers["X-Error-Code"] = code


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit: its bytes, and whether they lie in the store for large files."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """The git blob id: of the bytes, or of the pointer to them."""
        if not self.large:
            return git_oid(self.content)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return git_oid(pointer.encode())

    def entry(self, path: str, size: int | None = None) -> dict[str, Any]:
        """As ``tree`` and ``paths-info`` list it."""
        size = len(self.content) if size is None else size
        entry: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": self.oid}
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return entry


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """One model or data set repository; ``commits`` maps a commit to its files, newest last.

    ``refs`` maps each branch, and each pull request as ``refs/pr/N``, to its newest commit.
    """

    kind: str
    name: str
    private: bool = False
    gated: str | bool = False
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit({".gitattributes": StoredFile(b"*.parquet filter=lfs\n", False)}, "initial commit")

    @property
    def head(self) -> str:
        return self.refs["main"]

    @property
    def files(self) -> dict[str, StoredFile]:
        return self.commits[self.head]

    def commit(self, files: dict[str, StoredFile], message: str, ref: str = "main") -> str:
        state = json.dumps([len(self.commits), {path: file.oid for path, file in sorted(files.items())}])
        sha = hashlib.sha1(state.encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        self.refs[ref] = sha
        return sha

    def put(self, path: str, content: bytes) -> None:
        """Somebody adds a file by other means."""
        large = path.endswith(LARGE_SUFFIXES)
        self.commit({**self.files, path: StoredFile(content, large)}, f"add {path}")

    def revision(self, name: str) -> str:
        sha = self.refs.get("main" if name == "HEAD" else name, name)
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return sha

    def begin(self, branch: str, start: str) -> None:
        """Make a branch."""
        if NO_BRANCH.fullmatch(branch):
            raise Refusal(400, f"Invalid reference for a branch: {branch}")
        if branch in self.refs:
            raise Refusal(409, f"Reference already exists: {branch}")
        self.refs[branch] = self.revision(start)


@dataclass(frozen=True)
class Entry:
    """One request of the journal, with how visible the repository was when it came."""

    method: str
    path: str
    status: int
    received: int
    account: str | None
    private: bool | None
    gated: str | bool | None


class HubState:
    """All repositories, large files and what was asked."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.journal: list[Entry] = []
        self.swaps: dict[str, bytes] = {}
        """Files that are stored with other bytes than were sent."""
        self.served: dict[str, bytes] = {}
        """Files that are handed out with other bytes than are stored."""

    def account(self, authorization: str | None) -> str | None:
        if not authorization:
            return None
        token = authorization.removeprefix("Bearer ")
        if token not in ACCOUNTS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return ACCOUNTS[token][0]

    def create(self, authorization: str | None, wanted: dict[str, Any]) -> Repository:
        self._may_write(authorization, wanted.get("organization") or "lab")
        kind = wanted.get("type") or "model"
        name = f"{wanted.get('organization') or 'lab'}/{wanted['name']}"
        if (kind, name) in self.repositories:
            raise Refusal(409, f"You already created this {kind} repo")
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.repositories[kind, name] = Repository(kind, name, private)
        return self.repositories[kind, name]

    def writable(self, authorization: str | None, kind: str, name: str) -> Repository:
        repository = self.visible(authorization, kind, name)
        self._may_write(authorization, name.partition("/")[0])
        return repository

    def visible(self, authorization: str | None, kind: str, name: str) -> Repository:
        """The repository; somebody who may not see it learns no more than that it is not there."""
        account = self.account(authorization)
        repository = self.repositories.get((kind, name))
        if repository is None or (repository.private and account != name.partition("/")[0]):
            if account is None:
                raise Refusal(401, "Invalid username or password.")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repository

    def proposable(self, authorization: str | None, kind: str, name: str) -> Repository:
        """The repository, for somebody who opens a pull request: everyone who sees it, with a token that writes."""
        repository = self.visible(authorization, kind, name)
        self._may_write(authorization, self.account(authorization) or name.partition("/")[0])
        return repository

    def readable(self, authorization: str | None, kind: str, name: str) -> Repository:
        """The repository, for somebody who wants the bytes of a file."""
        repository = self.visible(authorization, kind, name)
        account = self.account(authorization)
        if repository.gated and account != name.partition("/")[0]:
            status = 401 if account is None else 403
            raise Refusal(status, f"Access to {kind} {name} is restricted", "GatedRepo")
        return repository

    def _may_write(self, authorization: str | None, owner: str) -> None:
        account = self.account(authorization)
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        token = (authorization or "").removeprefix("Bearer ")
        if account != owner or ACCOUNTS[token][1] != "write":
            raise Refusal(403, f'You don\'t have the rights to write under the namespace "{owner}"')

    def apply_commit(
        self, repository: Repository, branch: str, lines: list[dict[str, Any]], create_pr: bool = False
    ) -> tuple[str, str]:
        """A commit to ``branch``, or with ``create_pr`` to a new pull request: its hash, and where it went."""
        if branch not in repository.refs:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        header = lines[0]["value"]
        start = header.get("parentCommit") or repository.refs[branch]
        if not create_pr and start != repository.refs[branch]:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[repository.revision(start)])
        for line in lines[1:]:
            value = line["value"]
            path = value["path"]
            if line["key"] == "file":
                files[path] = StoredFile(self.swaps.get(path, base64.b64decode(value["content"])), large=False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.large:
                    raise Refusal(400, f"LFS pointer of {path} points to a file that does not exist")
                files[path] = StoredFile(self.large[value["oid"]], large=True)
            elif line["key"] == "deletedFile":
                if files.pop(path, None) is None:
                    raise Refusal(400, f"{path} does not exist")
            else:
                raise Refusal(400, f"unknown operation {line['key']}")
        opened = sum(ref.startswith("refs/pr/") for ref in repository.refs)
        ref = f"refs/pr/{opened + 1}" if create_pr else branch
        return repository.commit(files, header["summary"], ref), ref
