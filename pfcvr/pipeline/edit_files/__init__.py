"""Files of edits by people, one module a form. Each yields HumanEdit or Rejected; none changes anything."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pfcvr.backends import BackendTable
from pfcvr.records import HumanEdit, Rejected
from pfcvr.store import Workspace


@dataclass(frozen=True)
class EditFile:
    """A file of edits, its hash, and who made it where the file itself does not say."""

    path: Path
    name: str
    sha256: str
    editor: str | None


class EditReader(Protocol):
    """What EDIT_READERS points to: the edits of ``file`` that fit images of ``workspace``, and what fits none.

    Raises SourceError for a file that is not of its form.
    """

    def __call__(self, workspace: Workspace, file: EditFile) -> Iterator[HumanEdit | Rejected]: ...


EDIT_READERS: BackendTable = {
    "captions": ("pfcvr.pipeline.edit_files.captions:read_captions", None),
    "coco": ("pfcvr.pipeline.edit_files.coco:read_coco", None),
    "label-studio": ("pfcvr.pipeline.edit_files.label_studio:read_label_studio", None),
    "cvat": ("pfcvr.pipeline.edit_files.cvat:read_cvat", None),
}
