"""Parts from a COCO file, as ``parts --detector import`` reads them: an image without an annotation is no edit."""

from collections.abc import Iterator
from contextlib import closing

from pfcvr.config import PartsConfig
from pfcvr.pipeline.detectors.coco import CocoDetector
from pfcvr.pipeline.edit_files import EditFile
from pfcvr.pipeline.joined import PixelFiles
from pfcvr.pipeline.pictures import Picture
from pfcvr.records import HumanEdit, HumanOrigin, HumanParts, Rejected
from pfcvr.store import Workspace


def read_coco(workspace: Workspace, file: EditFile) -> Iterator[HumanEdit | Rejected]:
    """An edit for every image that the file has a usable annotation for."""
    origin = HumanOrigin(form="coco", file=file.name, file_sha256=file.sha256, editor=file.editor)
    files = PixelFiles(workspace)
    with closing(CocoDetector(workspace, PartsConfig(annotations=file.path))) as detector:
        for image in workspace.images():
            (found,) = detector.detect([Picture(image, files.path(image))])
            if found.instances:
                parts = HumanParts(instances=found.instances, origin=origin)
                yield HumanEdit(image_id=image.image_id, image_sha256=image.sha256, parts=parts)
        for row in detector.rejected():
            yield row.model_copy(update={"stage": "merge"})
