"""What all settings share: immutable, an unknown key is an error, TOML in, one sentence for what is wrong."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pfcvr.errors import UsageError


class Settings(BaseModel):
    """Base of all settings: immutable; an unknown key and a number that is not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


SettingsT = TypeVar("SettingsT", bound=Settings)


def parse(kind: type[SettingsT], values: dict[str, Any], where: str) -> SettingsT:
    """Validate ``values`` as ``kind``; raises UsageError naming ``where``, the key and what was expected."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {_first_problem(kind, error)}") from None


Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what torch's generators take


class SeedList(Settings):
    """Several seeds: ``1,2,3`` as a user writes them."""

    seeds: tuple[Seed, ...] = Field(min_length=1)

    @field_validator("seeds", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("seeds")
    @classmethod
    def _all_different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a seed is named twice")
        return value


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises UsageError when it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such configuration file; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML ({error}); correct the file") from None
    except RecursionError:
        raise UsageError(f"{path}: not usable as TOML (nested too deeply); correct the file") from None


def _first_problem(kind: type[Settings], error: ValidationError) -> str:
    # A key that is spelt wrong leaves another one missing; the spelling is what is to be told.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'; known here: {', '.join(_known_keys(kind, problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"'{key}' is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    place = f"'{key}': " if key else ""
    # What concerns several keys at once has a whole table for input.
    got = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
    return f"{place}{message}{got}"


def _known_keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Keys of the settings model reached from ``kind`` along ``path`` (aliases as a user writes them)."""
    for step in path:
        for name, field in kind.model_fields.items():
            if step in (name, field.alias):
                options = [field.annotation, *getattr(field.annotation, "__args__", ())]
                kind = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), kind)
    return sorted(field.alias or name for name, field in kind.model_fields.items())
