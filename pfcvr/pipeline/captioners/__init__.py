"""Captioners: one method, an image in and its caption out. A new one is a file here and a line in CAPTIONERS."""

import unicodedata
from collections.abc import Iterator
from typing import Any, Protocol

from pfcvr.backends import BackendTable
from pfcvr.config import CaptionConfig
from pfcvr.records import Caption, ImageRecord, Rejected
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace


class Captioner(Protocol):
    """Says in words what an image shows. ``caption`` is called from ``workers`` threads at once.

    ``settings`` and ``inputs`` (content hashes) are what its answers depend on. ``rejected`` yields the
    ``rejected_count`` rows of its own input that it cannot use: none for captioners that look at pixels.
    ``normal_reasons`` are rejections that never stop a run.
    """

    settings: dict[str, Any]
    inputs: dict[str, str]
    rejected_count: int
    normal_reasons: frozenset[str]
    workers: int

    def caption(self, image: ImageRecord) -> Caption | Rejected:
        """The caption of ``image``, or why there is none.

        Raises StageStopped where nobody can answer any more: the row then stays pending.
        """

    def rejected(self) -> Iterator[Rejected]:
        """Rows of the captioner's own input that lead to no caption."""

    def live(self) -> str:
        """What there is to say on the progress line besides rows and rate; may be empty."""

    def give_up(self) -> None:
        """The run ends early: let the calls of ``caption`` that are at work end soon, by StageStopped."""

    def close(self) -> None:
        """Free what was opened."""


class ReadyCaptions:
    """The base of captioners that need no model: nothing to say while they run, nobody to wait for."""

    def live(self) -> str:
        return ""

    def give_up(self) -> None:
        """Every call ends by itself."""


class CaptionerFactory(Protocol):
    """What an entry of CAPTIONERS points to."""

    def __call__(self, workspace: Workspace, config: CaptionConfig, options: RunOptions) -> Captioner: ...


CAPTIONERS: BackendTable = {
    "template": ("pfcvr.pipeline.captioners.template:TemplateCaptioner", None),
    "import": ("pfcvr.pipeline.captioners.import_:ImportCaptioner", None),
    "openai": ("pfcvr.pipeline.captioners.openai_:OpenAICaptioner", None),
    "transformers": ("pfcvr.pipeline.captioners.transformers_:TransformersCaptioner", None),
    "vllm": ("pfcvr.pipeline.captioners.vllm_:VllmCaptioner", None),
}


def plain_text(text: str) -> str:
    """``text`` with control characters and lone surrogates as spaces, and every run of white space as one space."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text).split())
