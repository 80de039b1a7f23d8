"""Settings of what goes to the Hugging Face Hub. Access tokens are never settings."""

import re
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from pfcvr.config.base import Settings

LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class HubTarget(Settings):
    """Where to publish. ``dry_run`` writes what would be published and asks the Hub nothing.

    ``overwrite`` replaces an earlier publication of other content, here and there.
    """

    repository: str
    dry_run: bool = False
    overwrite: bool = False

    @field_validator("repository")
    @classmethod
    def _is_owner_and_name(cls, value: str) -> str:
        if not REPOSITORY.fullmatch(value):
            raise ValueError("expected the name of a repository on the Hub as OWNER/NAME")
        return value


class PushDataConfig(HubTarget):
    """A data set to publish; pixels that the sources' terms do not give away need the ``right`` to publish them."""

    with_images: bool = False
    right: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _pixels_need_a_right(self) -> "PushDataConfig":
        if self.with_images and not (self.right or "").strip():
            raise ValueError("--with-images needs --right TEXT: who allowed you to publish these images, and how")
        if self.right is not None and not self.with_images:
            raise ValueError("--right is about publishing images; add --with-images or leave it out")
        return self


class PushModelConfig(HubTarget):
    """A finished run to publish. ``private``: for its owner alone; ``licence`` of the weights, as the Hub calls it."""

    run: Path
    private: bool = False
    licence: str | None = None

    @field_validator("licence")
    @classmethod
    def _is_name_of_the_hub(cls, value: str | None) -> str | None:
        if value is not None and not LICENCE.fullmatch(value):
            raise ValueError("expected the Hub's name of a licence, for example mit, apache-2.0 or cc-by-nc-4.0")
        return value
