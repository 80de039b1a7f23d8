"""A Hugging Face Hub on 127.0.0.1: the routes that the real ``huggingface_hub`` and ``datasets`` clients use.

Models and data sets, tokens, private and gated repositories, large files by LFS, and faults on request. ``state`` holds
what it stores; ``state.journal`` every request in order.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub.hub_repositories import LARGE_SUFFIXES, Entry, HubState, Refusal, Repository, git_oid

API = r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)"
FILES = r"/(?P<prefix>datasets/)?(?P<name>[^/]+/[^/]+)"


@dataclass
class Fault:
    """What happens to the next ``times`` requests whose method and path match ``where``.

    ``status``: that answer instead of the real one. ``drop``: the connection ends in the middle of the request body.
    ``lose``: the request is carried out, but its answer never arrives. ``then`` is called in both cases.
    """

    where: str
    status: int | None = None
    drop: bool = False
    lose: bool = False
    times: int = 1
    message: str = "as the test wants"
    code: str | None = None
    skip: int = 0
    then: Callable[[], None] = lambda: None

    def strikes(self, method: str, path: str) -> bool:
        if self.times == 0 or not re.search(self.where, f"{method} {path}"):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class LoopbackHub:
    """The running server: ``url``, its ``state``, and the ``faults`` that are still to strike."""

    def __init__(self, url: str, state: HubState) -> None:
        self.url, self.state = url, state
        self.faults: list[Fault] = []
        self.lock = threading.Lock()

    def forget(self) -> None:
        """No repositories, no journal, no faults."""
        self.state.__init__()  # type: ignore[misc]
        self.faults = []

    def repository(self, name: str, kind: str = "dataset") -> Repository:
        return self.state.repositories[kind, name]

    def asked(self, pattern: str) -> list[Entry]:
        """The requests whose ``METHOD path`` matches."""
        return [entry for entry in self.state.journal if re.search(pattern, f"{entry.method} {entry.path}")]


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """A Hub of one's own until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = LoopbackHub(f"http://127.0.0.1:{server.server_port}", HubState())
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class _Answer:
    content: bytes = b""
    status: int = 200
    headers: dict[str, str] | None = None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    @property
    def hub(self) -> LoopbackHub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._respond()

    do_HEAD = do_POST = do_PUT = do_GET

    def _respond(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)  # in which the names of branches cannot be told from what follows
        with self.hub.lock:
            fault = next((fault for fault in self.hub.faults if fault.strikes(self.command, path)), None)
        if fault is not None and fault.drop:
            fault.then()
            self.rfile.read(min(64, int(self.headers.get("Content-Length", 0))))
            self._note(path, 0, 0)
            self.close_connection = True
            return
        body = self._body()
        with self.hub.lock:
            try:
                if fault is not None and fault.status is not None:
                    raise Refusal(fault.status, fault.message, fault.code)
                answer = self._route(url.path, parse_qs(url.query), body)
            except Refusal as refusal:
                content = json.dumps({"error": refusal.message}).encode()
                answer = _Answer(content, refusal.status, refusal.headers)
            self._note(path, answer.status, len(body))
        if fault is not None and fault.lose:
            fault.then()
            self.close_connection = True
            return
        self._send(answer)

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.content)), **(answer.headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _note(self, path: str, status: int, received: int) -> None:
        known = [repository for (_, name), repository in self.hub.state.repositories.items() if name in path]
        private, gated = (known[0].private, known[0].gated) if known else (None, None)
        try:
            account = self.hub.state.account(self.headers.get("Authorization"))
        except Refusal:
            account = None
        self.hub.state.journal.append(Entry(self.command, path, status, received, account, private, gated))

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> _Answer:
        for pattern, method in ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                groups = {name: value and unquote(value) for name, value in match.groupdict().items()}
                if "prefix" in groups:
                    groups["kind"] = "dataset" if groups.pop("prefix") else "model"
                answer: _Answer = getattr(self, method)(query=query, body=body, **groups)
                return answer
        raise Refusal(404, f"no such route: {self.command} {path}")

    @property
    def _token(self) -> str | None:
        return self.headers.get("Authorization")

    def whoami(self, **_: Any) -> _Answer:
        account = self.hub.state.account(self._token)
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        return _json({"name": account, "type": "user", "orgs": []})

    def create(self, body: bytes, **_: Any) -> _Answer:
        repository = self.hub.state.create(self._token, json.loads(body))
        prefix = "datasets/" if repository.kind == "dataset" else ""
        return _json({"url": f"{self.hub.url}/{prefix}{repository.name}", "name": repository.name})

    def settings(self, kind: str, name: str, body: bytes, **_: Any) -> _Answer:
        repository = self.hub.state.writable(self._token, kind, name)
        wanted = json.loads(body)
        if "visibility" in wanted:
            repository.private = wanted["visibility"] == "private"
        repository.gated = wanted.get("gated", repository.gated)
        return _json(wanted)

    def info(self, kind: str, name: str, revision: str | None = None, **_: Any) -> _Answer:
        repository = self.hub.state.visible(self._token, kind, name)
        sha = repository.revision(revision or "main")
        siblings = [{"rfilename": path} for path in sorted(repository.commits[sha])]
        facts = {"id": name, "sha": sha, "private": repository.private, "gated": repository.gated}
        return _json({**facts, "siblings": siblings, "tags": [], "disabled": False, "downloads": 0, "likes": 0})

    def tree(
        self, kind: str, name: str, revision: str, query: dict[str, list[str]], folder: str = "", **_: Any
    ) -> _Answer:
        repository = self.hub.state.visible(self._token, kind, name)
        files = repository.commits[repository.revision(revision)]
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        root = f"{folder.strip('/')}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, file in files.items():
            if not path.startswith(root):
                continue
            steps = path[len(root) :].split("/")
            for depth in range(1, len(steps) if recursive else min(2, len(steps))):
                above = root + "/".join(steps[:depth])
                entries[above] = {"type": "directory", "path": above, "size": 0, "oid": git_oid(above.encode())}
            if recursive or len(steps) == 1:
                entries[path] = file.entry(path, self._served_size(path))
        if root and not entries:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        return _json([entries[path] for path in sorted(entries)])

    def _served_size(self, path: str) -> int | None:
        served = self.hub.state.served.get(path)
        return None if served is None else len(served)

    def paths_info(self, kind: str, name: str, revision: str, body: bytes, **_: Any) -> _Answer:
        repository = self.hub.state.visible(self._token, kind, name)
        files = repository.commits[repository.revision(revision)]
        try:
            wanted = json.loads(body)["paths"]
        except ValueError:
            wanted = parse_qs(body.decode()).get("paths", [])
        entries = []
        for path in wanted:
            if path in files:
                entries.append(files[path].entry(path, self._served_size(path)))
            elif any(other.startswith(f"{path.rstrip('/')}/") for other in files):
                entries.append({"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())})
        return _json(entries)

    def begin(self, kind: str, name: str, branch: str, body: bytes, **_: Any) -> _Answer:
        start = json.loads(body or b"{}").get("startingPoint", "main")
        self.hub.state.writable(self._token, kind, name).begin(branch, start)
        return _Answer()

    def refs(self, kind: str, name: str, **_: Any) -> _Answer:
        refs = self.hub.state.visible(self._token, kind, name).refs
        branches = [
            {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": sha}
            for ref, sha in refs.items()
            if not ref.startswith("refs/pr/")
        ]
        return _json({"branches": branches, "converts": [], "tags": []})

    def _receiving(self, kind: str, name: str, query: dict[str, list[str]]) -> Repository:
        """The repository, which anyone who sees it may propose changes to, and its owner may change."""
        hub = self.hub.state
        return (hub.proposable if "create_pr" in query else hub.writable)(self._token, kind, name)

    def preupload(
        self, kind: str, name: str, revision: str, query: dict[str, list[str]], body: bytes, **_: Any
    ) -> _Answer:
        repository = self._receiving(kind, name, query)
        files = repository.commits[repository.revision(revision)]
        answers = []
        for file in json.loads(body)["files"]:
            large = file["path"].endswith(LARGE_SUFFIXES) or b"\0" in base64.b64decode(file["sample"])
            there = files.get(file["path"])
            known = None if there is None else there.sha256 if there.large else there.oid
            mode = "lfs" if large else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known})
        return _json({"files": answers})

    def lfs_batch(self, kind: str, name: str, body: bytes, **_: Any) -> _Answer:
        asked = json.loads(body)
        hub = self.hub.state
        (hub.writable if "ref" in asked else hub.proposable)(self._token, kind, name)
        objects = []
        for wanted in asked["objects"]:
            answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in hub.large:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{name}/{wanted['oid']}"}}
            objects.append(answer)
        return _json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str, body: bytes, **_: Any) -> _Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the bytes are not those of the hash")
        self.hub.state.large[oid] = body
        return _Answer()

    def validate_yaml(self, body: bytes, **_: Any) -> _Answer:
        import yaml

        parts = json.loads(body)["content"].split("---\n")
        try:
            assert isinstance(yaml.safe_load(parts[1]), dict)
        except (IndexError, AssertionError, yaml.YAMLError) as error:
            raise Refusal(400, json.dumps({"errors": [{"message": str(error)}], "warnings": []})) from None
        return _json({"errors": [], "warnings": []})

    def commit(
        self, kind: str, name: str, revision: str, query: dict[str, list[str]], body: bytes, **_: Any
    ) -> _Answer:
        repository = self._receiving(kind, name, query)
        lines = [json.loads(line) for line in body.splitlines()]
        sha, ref = self.hub.state.apply_commit(repository, revision, lines, "create_pr" in query)
        page = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        answer = {"commitOid": sha, "commitUrl": f"{page}/commit/{sha}", "success": True}
        if "create_pr" in query:
            answer["pullRequestUrl"] = f"{page}/discussions/{ref.rpartition('/')[2]}"
        return _json(answer)

    def resolve(self, kind: str, name: str, revision: str, file: str, **_: Any) -> _Answer:
        repository = self.hub.state.readable(self._token, kind, name)
        sha = repository.revision(revision)
        stored = repository.commits[sha].get(file)
        if stored is None:
            raise Refusal(404, f"{file} does not exist", "EntryNotFound")
        headers = {"ETag": f'"{stored.sha256 if stored.large else stored.oid}"', "X-Repo-Commit": sha}
        content = self.hub.state.served.get(file, stored.content)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return _Answer(content, headers={**headers, "Accept-Ranges": "bytes"})
        first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return _Answer(content[first : last + 1], 206, headers)


def _json(value: Any) -> _Answer:
    return _Answer(json.dumps(value).encode(), headers={"Content-Type": "application/json"})


ROUTES = (
    (r"GET /api/whoami-v2", "whoami"),
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate_yaml"),
    (rf"PUT {API}/settings", "settings"),
    (rf"GET {API}", "info"),
    (rf"GET {API}/refs", "refs"),
    (rf"POST {API}/branch/(?P<branch>.+)", "begin"),
    (rf"GET {API}/revision/(?P<revision>.+)", "info"),
    (rf"GET {API}/tree/(?P<revision>[^/]+)(?P<folder>/.*)?", "tree"),
    (rf"POST {API}/paths-info/(?P<revision>.+)", "paths_info"),
    (rf"POST {API}/preupload/(?P<revision>.+)", "preupload"),
    (rf"POST {API}/commit/(?P<revision>.+)", "commit"),
    (rf"POST {FILES}\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"PUT /lfs/[^/]+/[^/]+/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    (rf"(?:GET|HEAD) {FILES}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", "resolve"),
)
