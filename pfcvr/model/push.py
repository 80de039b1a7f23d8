"""``pfcvr push``: a finished run on the Hugging Face Hub, read back and compared before it is called done."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pfcvr.config import PushModelConfig
from pfcvr.errors import HubError
from pfcvr.hub import Publication, Published, patiently, publish
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.publication import compose
from pfcvr.model.run_folder import RunFolder


@dataclass(frozen=True)
class ModelPush:
    """What was published, or for a dry run (``published`` None) what would be; ``licence`` None: none was named."""

    repository: str
    licence: str | None
    folder: Path
    files: dict[str, int]
    published: Published | None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        hub = asdict(self.published) if self.published is not None else None
        return {**asdict(self), "folder": str(self.folder), "published": hub, "dry_run": self.published is None}

    def text(self) -> str:
        """What a person wants to know."""
        licence = "" if self.licence else "\n  no licence was named, and the card says so: --license NAME names one"
        what = f"{len(self.files)} files, {sum(self.files.values()):,} bytes"
        if self.published is None:
            return f"push: nothing was sent; {what} in {self.folder}, for {self.repository}{licence}"
        done = self.published
        return (
            f"push: {what}: {done.url}\n  {done.sent} files sent, {done.kept} were there; commit {done.commit}; "
            f"the model was loaded back and has the same weights{licence}"
        )


def push(config: PushModelConfig) -> ModelPush:
    """Publish the run in ``config.run``; what is there already is not sent again.

    Raises:
        CheckpointError: the run is not finished, or cannot be read.
        HubError: the Hub refused something, or another model than this arrived there.
    """
    folder = compose(RunFolder(config.run), config.repository, config.licence)
    here = PfcvrModel.from_pretrained(folder)
    publication = Publication(folder, config.repository, "model", private=config.private or None)
    published = None
    if not config.dry_run:
        published = publish(publication, config.overwrite)
        _compare(here, config.repository, published.commit)
    sizes = {name: path.stat().st_size for name, path in publication.files.items()}
    return ModelPush(config.repository, config.licence, folder, sizes, published)


def _compare(here: PfcvrModel, repository: str, commit: str) -> None:
    there = patiently(repository, lambda: PfcvrModel.from_pretrained(repository, revision=commit))
    ours, theirs = here.state_dict(), there.state_dict()
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        raise HubError(
            f"{repository}: another model was loaded back than was published; run the same command again, and look at "
            "the repository's files if that does not help"
        )
