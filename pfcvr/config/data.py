"""Settings of the data half: one model a stage, and ``build.toml``."""

import json
import re
import shlex
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pfcvr.config.base import Settings
from pfcvr.config.model import TrainConfig
from pfcvr.config.outputs import ExportConfig
from pfcvr.errors import UsageError

SourceFormat = Literal[
    "auto", "veri-wild", "veri-wild-2", "veri-776", "vehicleid", "vric", "t2i-veri", "t2i-verw", "mvp", "pfcvr",
    "reid-json", "folder",
]  # fmt: skip
PartsDetector = Literal["import", "grounding-dino", "groundingdino", "none"]
PartsSegmenter = Literal["auto", "none", "sam", "segment-anything", "sam3"]
Captioner = Literal["template", "import", "openai", "vllm", "transformers"]


# Where a vLLM server of ours is found and what its model is called: the run chooses both, and waits for it there.
OWN_SERVER_OPTIONS = ("model", "served-model-name", "host", "port", "uds", "ssl-keyfile", "ssl-certfile", "headless")


def command_line(value: Any) -> Any:
    """Options as a shell or a TOML table has them, as arguments: ``{max-num-seqs = 16, enforce-eager = true}``."""
    if isinstance(value, str):
        return tuple(shlex.split(value))
    if not isinstance(value, dict):
        return value
    arguments: list[str] = []
    for name, setting in value.items():
        if setting is False:
            continue
        arguments.append(f"--{name}")
        if setting is not True:
            arguments.append(setting if isinstance(setting, str) else json.dumps(setting))
    return tuple(arguments)


def grid_sizes(text: str) -> dict[str, str]:
    """Rows and columns of ``24x24``; raises UsageError for a text of another form."""
    found = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*", text)
    if found is None:
        raise UsageError(f"the patch grid is ROWSxCOLS, such as 24x24, and not '{text}'")
    return {"rows": found[1], "cols": found[2]}


class GridConfig(Settings):
    """How part masks become a patch grid (design: stretch to the square, coverage share, keep the best cell)."""

    rows: int = Field(24, ge=1, le=128)  # 384 / 16, the grid of ViT-B/16 at 384 px (paper, section V-B)
    cols: int = Field(24, ge=1, le=128)
    coverage: float = Field(0.5, gt=0, le=1)  # ours: neither paper nor released code states the threshold


class SynthConfig(Settings):
    """Rendered vehicles: how many, how large (px), from which seed."""

    identities: int = Field(300, ge=3)
    images_per_identity: int = Field(4, ge=1)
    size: int = Field(128, ge=32, le=384)
    seed: int = 0


class ImportConfig(Settings):
    """Where the images come from. ``strict`` turns every surprise into a failure."""

    source: Path
    format: SourceFormat = "auto"
    strict: bool = False


class SelectConfig(Settings):
    """Which vehicles are kept: at least so many images and cameras each, then a seeded draw."""

    identities: int | None = Field(None, ge=1)
    images: int | None = Field(None, ge=1)
    min_images: int = Field(1, ge=1)
    min_cameras: int = Field(1, ge=0)
    list: Path | None = None
    seed: int = 0


class ImageInputConfig(Settings):
    """The picture a vision-language model is shown, sizes in pixels; one vision token of Qwen3-VL covers 32 x 32."""

    min_pixels: int = Field(512 * 512, ge=32 * 32)  # ours: 256 vision tokens, however small the crop
    max_pixels: int = Field(640 * 1024, ge=32 * 32)  # ours: 640 vision tokens; captions gain little from more
    min_side: int = Field(16, ge=8)  # ours: below that nothing but the color is left to describe
    max_aspect: float = Field(20.0, ge=1)
    jpeg_quality: int = Field(92, ge=50, le=100)

    @model_validator(mode="after")
    def _floor_is_below_ceiling(self) -> "ImageInputConfig":
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}")
        return self


class CaptionConfig(Settings):
    """Where the sentences come from: ``captions`` for ``import``, the rest for vision-language models.

    There is no default: what a data set is worth hangs on it, and what needs no model or file is not to train on.

    ``model`` None takes the one model that the endpoint at ``base_url`` serves. ``prompt`` is the name of a shipped
    prompt or the path of one. At most ``concurrency`` requests are in flight; each may take ``timeout`` seconds.
    An image gets up to ``attempts`` answers, each asked for with other sampling, until one is good.
    For ``vllm``: the interpreter that has vLLM, how many servers, and options for them, as text or as a table.
    For ``transformers``: where the model runs, and in which precision.
    """

    captioner: Captioner
    captions: Path | None = None
    base_url: str | None = None
    model: str | None = Field(None, min_length=1)
    prompt: str = "vehicle-json"
    concurrency: int = Field(64, ge=1, le=1024)
    timeout: float = Field(120.0, gt=0, le=3600)
    attempts: int = Field(3, ge=3, le=10)
    image: ImageInputConfig = ImageInputConfig()
    python: Path | None = None
    replicas: int = Field(1, ge=1, le=64)
    server_args: tuple[str, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on a GPU
    seed: int = 0

    @field_validator("server_args", mode="before")
    @classmethod
    def _arguments_from_text_or_table(cls, value: Any) -> Any:
        return command_line(value)

    @field_validator("python", "replicas", "server_args")
    @classmethod
    def _for_own_servers_alone(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("captioner") != "vllm" and value != cls.model_fields[str(info.field_name)].default:
            raise ValueError("this is for captioner 'vllm' alone; leave it out")
        return value

    @field_validator("server_args")
    @classmethod
    def _leaves_the_address_to_the_run(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for option in (argument.partition("=")[0] for argument in value if argument.startswith("--")):
            name = option.removeprefix("--").replace("_", "-")
            # vLLM takes the beginning of an option for the whole.
            if name and any(own.startswith(name) for own in OWN_SERVER_OPTIONS):
                raise ValueError(f"{option} is chosen by the run itself; leave it out")
        return value

    @field_validator("device", "precision")
    @classmethod
    def _for_this_process_alone(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("captioner") != "transformers" and value != "auto":
            raise ValueError("this is for captioner 'transformers' alone; leave it out")
        return value


class DoctorConfig(Settings):
    """Which endpoint and model are asked, with which prompt; ``timeout`` in seconds."""

    base_url: str
    model: str | None = Field(None, min_length=1)
    prompt: str = "vehicle-json"
    timeout: float = Field(120.0, gt=0, le=3600)
    image: ImageInputConfig = ImageInputConfig()


class PartsConfig(Settings):
    """Where the part masks come from, and the patch grid they are laid on.

    Weights are a name on the Hub or a path. ``phrases`` is a TOML file (none: the shipped ``prompts/parts.toml``);
    ``threshold`` replaces the score that the file asks of a detection. ``batch`` images go through a model together.
    For ``groundingdino``: the interpreter that has it, which of its configurations its weights were made with, and the
    name or folder of its BERT.
    """

    detector: PartsDetector = "import"
    segmenter: PartsSegmenter = "auto"
    annotations: Path | None = None
    detector_model: str | None = None
    segmenter_model: str | None = None
    phrases: Path | None = None
    threshold: float | None = Field(None, gt=0, lt=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on a GPU
    batch: int = Field(4, ge=1, le=256)
    python: Path | None = None
    detector_config: Literal["GroundingDINO_SwinT_OGC", "GroundingDINO_SwinB"] = "GroundingDINO_SwinT_OGC"
    text_encoder: str = Field("bert-base-uncased", min_length=1)
    grid: GridConfig = GridConfig()

    @field_validator("python", "detector_config", "text_encoder")
    @classmethod
    def _for_the_original_alone(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("detector") != "groundingdino" and value != cls.model_fields[str(info.field_name)].default:
            raise ValueError("this is for detector 'groundingdino' alone; leave it out")
        return value

    @field_validator("grid", mode="before")
    @classmethod
    def _grid_from_text(cls, value: Any) -> Any:
        return grid_sizes(value) if isinstance(value, str) else value


class MergeConfig(Settings):
    """A file of edits by people, and who made them, for files that do not say it themselves."""

    file: Path
    editor: str | None = Field(None, min_length=1, max_length=200)


class SplitConfig(Settings):
    """Identity-disjoint split: ``ratio`` of the images to train + val, ``val`` of the train identities to val.

    ``from_source`` takes the split that the source gives every image instead, and nothing is drawn.
    """

    ratio: float = Field(0.7, gt=0, lt=1)  # paper, section IV: 7:3
    val: float = Field(0.1, ge=0, lt=1)  # ours: the paper has no validation set of its own
    seed: int = 0
    from_source: bool = False


class CheckConfig(Settings):
    """``strict`` makes warnings fail; ``require_parts`` fails on train images without parts."""

    strict: bool = False
    require_parts: bool = False


class ShowConfig(Settings):
    """Contact sheet: how many images, drawn with which seed, or those with the least certain parts."""

    out: Path = Path("sheet.png")
    sample: int = Field(24, ge=1, le=400)
    seed: int = 0
    least_certain: bool = False


class BuildConfig(Settings):
    """``build.toml``: one section a stage; a section that is absent is a stage that is not run.

    ``merge`` is one table, or one a file. ``train`` trains on what was exported; its ``data`` may be left out.
    """

    workspace: Path
    import_: ImportConfig = Field(alias="import")
    select: SelectConfig | None = None
    caption: CaptionConfig | None = None
    parts: PartsConfig | None = None
    merge: tuple[MergeConfig, ...] = ()
    split: SplitConfig | None = None
    check: CheckConfig | None = None
    show: ShowConfig | None = None
    export: ExportConfig | None = None
    train: TrainConfig | None = None

    @field_validator("merge", mode="before")
    @classmethod
    def _one_file_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, dict) else value

    @model_validator(mode="before")
    @classmethod
    def _train_on_the_export(cls, values: Any) -> Any:
        train, export = values.get("train"), values.get("export")
        if isinstance(train, dict) and isinstance(export, dict) and "data" not in train and "out" in export:
            values = values | {"train": train | {"data": str(export["out"])}}
        return values
