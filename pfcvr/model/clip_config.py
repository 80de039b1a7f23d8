"""What the ``config.json`` of a Transformers CLIP checkpoint says about its towers, checked before any is built.

Nothing else of that file is taken over: token ids are the tokenizer's matter, and all weights are stored.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pfcvr.config import Settings, TowerSizes, parse
from pfcvr.config.model import Activation, Depth, NormEps, Side, Width
from pfcvr.errors import CheckpointError, UsageError, first_line


class Tower(Settings):
    """What both towers name."""

    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Depth
    num_attention_heads: Width
    hidden_act: Activation
    layer_norm_eps: NormEps
    attention_dropout: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "Tower":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be divisible by num_attention_heads "
                f"({self.num_attention_heads})"
            )
        return self


class VisionTower(Tower):
    num_channels: Literal[3]
    patch_size: Width
    image_size: Side

    @model_validator(mode="after")
    def _an_image_has_a_patch(self) -> "VisionTower":
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be at least patch_size ({self.patch_size})")
        return self


class TextTower(Tower):
    vocab_size: Annotated[int, Field(ge=1, le=1_000_000)]
    max_position_embeddings: Width


class StoredClip(Settings):
    """The two towers of a checkpoint, in the words of its ``config.json``."""

    projection_dim: Width
    vision_config: VisionTower
    text_config: TextTower

    @model_validator(mode="after")
    def _towers_agree(self) -> "StoredClip":
        for name in ("hidden_act", "layer_norm_eps"):
            vision, text = getattr(self.vision_config, name), getattr(self.text_config, name)
            if vision != text:
                raise ValueError(
                    f"its towers differ in {name} (vision {vision}, text {text}), expected the same in both"
                )
        return self

    @property
    def sizes(self) -> TowerSizes:
        """The same in the words of the settings here."""
        vision, text = self.vision_config, self.text_config
        return TowerSizes(
            patch_size=vision.patch_size,
            embedding_dim=self.projection_dim,
            vision_width=vision.hidden_size,
            vision_mlp=vision.intermediate_size,
            vision_layers=vision.num_hidden_layers,
            vision_heads=vision.num_attention_heads,
            text_width=text.hidden_size,
            text_mlp=text.intermediate_size,
            text_layers=text.num_hidden_layers,
            text_heads=text.num_attention_heads,
            activation=vision.hidden_act,
            norm_eps=vision.layer_norm_eps,
        )


def read_clip_config(backbone: str) -> StoredClip:
    """What ``config.json`` of ``backbone`` (folder, or name on the Hub) says; what it leaves out is CLIP's own.

    Raises:
        CheckpointError: it is of another kind of model, or names what no CLIP known here has.
        OSError: there is none.
    """
    from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, PretrainedConfig

    try:
        settings, _ = PretrainedConfig.get_config_dict(backbone)
        kind = settings.get("model_type")
    except (TypeError, AttributeError) as error:  # the library takes the file for an object
        raise CheckpointError(
            f"{backbone}: its config.json is not that of a CLIP checkpoint ({first_line(error)}); copy it again"
        ) from None
    if kind != "clip":
        what = f"a checkpoint of kind '{kind}'" if kind else "its config.json names no model_type"
        raise CheckpointError(f"{backbone}: {what}, expected 'clip'; name a CLIP checkpoint")
    if settings.get("quantization_config"):
        raise CheckpointError(
            f"{backbone}: holds quantized weights, which cannot be trained; name a CLIP checkpoint in full"
        )
    values = {"projection_dim": settings.get("projection_dim", CLIPConfig().projection_dim)}
    for name, tower, default in (
        ("vision_config", VisionTower, CLIPVisionConfig()),
        ("text_config", TextTower, CLIPTextConfig()),
    ):
        stored = settings.get(f"{name}_dict") or settings.get(name) or {}  # the first by Transformers before 4.28
        values[name] = _known(tower, stored, default) if isinstance(stored, dict) else stored
    try:
        return parse(StoredClip, values, f"{backbone}: its config.json names towers that are not known here")
    except UsageError as error:
        raise CheckpointError(f"{error}; name another CLIP checkpoint, or copy this one again") from None


def _known(tower: type[Tower], stored: dict[str, Any], default: Any) -> dict[str, Any]:
    return {name: stored.get(name, getattr(default, name)) for name in tower.model_fields}
