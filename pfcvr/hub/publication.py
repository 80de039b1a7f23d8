"""A folder that is complete, and its way into a repository: only what is missing is sent, and all of it compared."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfcvr.errors import HubError
from pfcvr.hub.repository import HubRepository, Kind, Standing

MANIFEST_NAME = "pfcvr.json"
SHOWN = 3


@dataclass(frozen=True)
class Publication:
    """What is to be published. ``restricted``: private and, for those who are let in, gated, before the first byte.

    ``private`` None leaves a repository that exists as it is, and a new one to the account's own rule. ``message`` is
    that of the commit, which goes to the branch ``revision`` (none: the main branch; made from there if needed), or
    with ``create_pr`` into a pull request. Raises HubError for both together.
    """

    folder: Path
    name: str
    kind: Kind
    private: bool | None = None
    restricted: bool = False
    message: str = "Publish with pfcvr"
    revision: str | None = None
    create_pr: bool = False

    def __post_init__(self) -> None:
        if self.create_pr and self.revision not in (None, "main"):  # all that the Hub's client offers
            raise HubError(
                f"{self.name}: a pull request goes to the main branch, not to {self.revision!r}; leave out revision or "
                "create_pr"
            )

    @property
    def files(self) -> dict[str, Path]:
        """Every file by its name in the repository."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in paths}


@dataclass(frozen=True)
class Published:
    """Where a publication lies now; ``sent`` files were not there before, ``kept`` were.

    ``address`` is that of the commit, or of the pull request that was opened for it.
    """

    url: str
    commit: str
    address: str
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
    files of others stay. Where nothing is missing nothing is sent, and no pull request opened. ``token`` None is the
    one of this machine.

    Raises:
        HubError: the Hub refused something, was not reached, or the repository holds something else.
    """
    hub = HubRepository(publication.name, publication.kind, token, publication.revision)
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
    if not before.begun:
        hub.begin(before.commit)
    kept = sum(name in before.files and before.files[name].holds(path) for name, path in files.items())
    opened = None
    if kept < len(files) or outdated:
        if publication.create_pr:
            opened, hub = hub.propose(files, publication.message, before.commit, outdated)
        else:
            hub.upload(publication.folder, publication.message, before.commit, outdated)
    arrived = hub.standing()
    wrong = [
        n for n, path in files.items() if arrived is None or n not in arrived.files or not arrived.files[n].holds(path)
    ]
    if arrived is None or wrong:
        raise HubError(
            f"{opened or publication.name}: {_some(wrong)} did not arrive as they are here; run the same command again"
        )
    address = opened or f"{hub.url}/commit/{arrived.commit}"
    return Published(hub.url, arrived.commit, address, len(files) - kept, kept, outdated)


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
