"""Settings of what leaves a workspace: exports in several forms, and a data set rebuilt from annotations."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pfcvr.config.base import Settings

ExportFormat = Literal["hf", "annotations", "official", "coco", "webdataset"]
FORMAT_OF_OPTION = {"keep_val": "official", "copies": "official", "copies_seed": "official", "images": "coco"}


class ExportConfig(Settings):
    """Where the data set goes and in which form.

    For ``official``: ``keep_val`` leaves our val and test what they are called; ``copies`` adds a dark, a light and a
    noisy copy of every train image, the noise drawn from ``copies_seed``. For ``coco``: whether ``images`` are copied,
    hard-linked, or only named by their path inside the source.
    """

    out: Path
    format: ExportFormat = "hf"
    keep_val: bool = False
    copies: bool = False
    copies_seed: int = Field(0, ge=0)
    images: Literal["copy", "link", "reference"] = "copy"

    @field_validator("keep_val", "copies", "copies_seed", "images")
    @classmethod
    def _for_one_format_alone(cls, value: Any, info: ValidationInfo) -> Any:
        needed = FORMAT_OF_OPTION[str(info.field_name)]
        if info.data.get("format") != needed and value != cls.model_fields[str(info.field_name)].default:
            raise ValueError(f"this is for format '{needed}' alone; leave it out")
        return value


class RebuildConfig(Settings):
    """Published ``annotations``, the reader's own ``images``, and where the data set goes.

    ``accept_reencoded`` also takes images that look the same and have the same size but not the same bytes.
    """

    annotations: Path
    images: Path
    out: Path
    accept_reencoded: bool = False
