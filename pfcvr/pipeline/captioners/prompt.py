"""Caption prompts: TOML files, versioned, known in every record by the hash of their bytes."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pfcvr.config import Settings, parse, read_toml
from pfcvr.errors import UsageError
from pfcvr.pipeline.captioners.judge_schema import check_schema

SHIPPED = ("vehicle-json", "vehicle-text")


class _Sampling(Settings):
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=2)


class _PromptFile(Settings):
    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    language: str = "en"
    min_words: int = Field(ge=1)
    max_words: int = Field(ge=1)
    max_tokens: int = Field(ge=1)
    system: str = Field(min_length=1)
    user: str = Field(min_length=1)
    sampling: _Sampling = _Sampling()
    json_schema: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _band_is_a_band(self) -> "_PromptFile":
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is more than max_words {self.max_words}")
        return self


@dataclass(frozen=True)
class Prompt:
    """What a vision-language model is told about every image.

    ``system`` stands before the image, ``user`` after it. ``json_schema`` is in the file's order of properties, in
    which a server writes them; None asks for plain text. A caption has ``min_words`` to ``max_words`` words.
    ``max_tokens`` bounds the whole answer, ``sampling`` holds names of the OpenAI and vLLM interfaces.
    ``sha256`` is of the file's bytes.
    """

    name: str
    version: int
    sha256: str
    system: str
    user: str
    json_schema: dict[str, Any] | None
    max_tokens: int
    sampling: dict[str, float | int]
    min_words: int
    max_words: int
    language: str

    @property
    def label(self) -> str:
        """Name and version, as records keep them."""
        return f"{self.name}-{self.version}"


def load_prompt(name_or_path: str) -> Prompt:
    """The shipped prompt of that name, or the prompt file at that path (a name with a slash or ending in ``.toml``).

    Raises UsageError for a name that is not shipped, a file that is missing or no TOML, an unknown or missing field,
    a value out of range, and a schema that asks for what captions are not judged by.
    """
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    elif name_or_path in SHIPPED:
        path = Path(str(files("pfcvr").joinpath("prompts", f"{name_or_path}.toml")))
    else:
        raise UsageError(
            f"unknown prompt '{name_or_path}'; choose one of: {', '.join(SHIPPED)}, or give the path of a .toml file"
        )
    file = parse(_PromptFile, read_toml(path), str(path))
    if file.json_schema is not None:
        check_schema(file.json_schema, str(path))
    return Prompt(
        name=file.name,
        version=file.version,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        system=file.system.strip(),
        user=file.user.strip(),
        json_schema=file.json_schema,
        max_tokens=file.max_tokens,
        sampling=file.sampling.model_dump(exclude_none=True),
        min_words=file.min_words,
        max_words=file.max_words,
        language=file.language,
    )
