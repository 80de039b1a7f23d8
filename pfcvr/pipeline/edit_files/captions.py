"""Corrected captions, in any of the forms that ``caption --captioner import`` reads, with the same tolerance."""

from collections.abc import Iterator
from contextlib import closing

from pfcvr.config import CaptionConfig
from pfcvr.pipeline.captioners.import_ import ImportCaptioner
from pfcvr.pipeline.edit_files import EditFile
from pfcvr.records import Caption, HumanCaption, HumanEdit, HumanOrigin, Rejected
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace


def read_captions(workspace: Workspace, file: EditFile) -> Iterator[HumanEdit | Rejected]:
    """An edit for every image that the file has a sentence for."""
    origin = HumanOrigin(form="captions", file=file.name, file_sha256=file.sha256, editor=file.editor)
    config = CaptionConfig(captioner="import", captions=file.path)
    with closing(ImportCaptioner(workspace, config, RunOptions(quiet=True))) as captioner:
        for image in workspace.images():
            found = captioner.caption(image)
            if isinstance(found, Caption):
                caption = HumanCaption(texts=found.texts, part_texts=found.part_texts, origin=origin)
                yield HumanEdit(image_id=image.image_id, image_sha256=image.sha256, caption=caption)
        for row in captioner.rejected():
            yield row.model_copy(update={"stage": "merge"})
