"""Settings of every stage and recipe: frozen pydantic models, TOML in, resolved TOML out.

Unknown keys are errors. This module imports pydantic and the standard library only, so that ``--help`` stays fast.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pfcvr.errors import UsageError

PartsDetector = Literal["import"]
Captioner = Literal["template", "import"]


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    format: Literal["auto", "veri-wild", "reid-json"] = "auto"
    strict: bool = False


class SelectConfig(Settings):
    """Which vehicles are kept: at least so many images and cameras each, then a seeded draw."""

    identities: int | None = Field(None, ge=1)
    images: int | None = Field(None, ge=1)
    min_images: int = Field(1, ge=1)
    min_cameras: int = Field(1, ge=0)
    list: Path | None = None
    seed: int = 0


class CaptionConfig(Settings):
    """Where the sentences come from."""

    captioner: Captioner = "template"
    captions: Path | None = None
    seed: int = 0


class PartsConfig(Settings):
    """Where the part masks come from, and the patch grid they are laid on."""

    detector: PartsDetector = "import"
    annotations: Path | None = None
    grid: GridConfig = GridConfig()

    @field_validator("grid", mode="before")
    @classmethod
    def _grid_from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            rows, _, cols = value.partition("x")
            return {"rows": rows, "cols": cols}
        return value


class SplitConfig(Settings):
    """Identity-disjoint split: ``ratio`` of the images to train + val, ``val`` of the train identities to val."""

    ratio: float = Field(0.7, gt=0, lt=1)  # paper, section IV: 7:3
    val: float = Field(0.1, ge=0, lt=1)  # ours: the paper has no validation set of its own
    seed: int = 0


class CheckConfig(Settings):
    """``strict`` makes warnings fail; ``require_parts`` fails on train images without parts."""

    strict: bool = False
    require_parts: bool = False


class ShowConfig(Settings):
    """Contact sheet: how many images, drawn with which seed."""

    out: Path = Path("sheet.png")
    sample: int = Field(24, ge=1, le=400)
    seed: int = 0


class ExportConfig(Settings):
    """Where the data set goes and in which form."""

    out: Path
    format: Literal["hf"] = "hf"


class BuildConfig(Settings):
    """``build.toml``: one section a stage; a section that is absent is a stage that is not run."""

    workspace: Path
    import_: ImportConfig = Field(alias="import")
    select: SelectConfig | None = None
    caption: CaptionConfig | None = None
    parts: PartsConfig | None = None
    split: SplitConfig | None = None
    check: CheckConfig | None = None
    show: ShowConfig | None = None
    export: ExportConfig | None = None


SettingsT = TypeVar("SettingsT", bound=Settings)


def parse(kind: type[SettingsT], values: dict[str, Any], where: str) -> SettingsT:
    """Validate ``values`` as ``kind``; raises UsageError naming ``where``, the key and what was expected."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {_first_problem(kind, error)}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises UsageError when it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such configuration file; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML ({error}); correct the file") from None


def _first_problem(kind: type[Settings], error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'; known here: {', '.join(_known_keys(kind, problem['loc'][:-1]))}"
    return f"'{key}': {problem['msg'][0].lower()}{problem['msg'][1:]} (got {problem['input']!r})"


def _known_keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Keys of the settings model reached from ``kind`` along ``path`` (aliases as a user writes them)."""
    for step in path:
        for name, field in kind.model_fields.items():
            if step in (name, field.alias):
                options = [field.annotation, *getattr(field.annotation, "__args__", ())]
                kind = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), kind)
    return sorted(field.alias or name for name, field in kind.model_fields.items())
