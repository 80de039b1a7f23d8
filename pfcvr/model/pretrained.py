"""A trained model as one folder: weights (safetensors), settings, tokenizer and preprocessing."""

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pfcvr.config import ModelConfig, parse
from pfcvr.errors import CheckpointError, UsageError
from pfcvr.model.clip import IMAGE_MEAN, IMAGE_STD
from pfcvr.model.openai_clip import HOW_TO_CONVERT, found_pickle
from pfcvr.model.tokenizer import CaptionTokenizer

WEIGHTS_NAME, CONFIG_NAME = "model.safetensors", "config.json"
FORMAT_VERSION = 1
Model = TypeVar("Model", bound="PretrainedModel")  # not Self, which the shape checks of the tests cannot resolve


class PretrainedModel(nn.Module):
    """What saving and loading need of a model: its settings, its tokenizer, and how to build it again."""

    config: ModelConfig
    tokenizer: CaptionTokenizer
    identities: int

    @classmethod
    def untrained(cls: type[Model], config: ModelConfig, tokenizer: CaptionTokenizer, identities: int) -> Model:
        """The model with random weights, of the sizes that ``config`` names."""
        raise NotImplementedError

    def save_pretrained(self, folder: Path) -> None:
        """Write weights (safetensors), settings, tokenizer and preprocessing into ``folder``, made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in self.state_dict().items()}, folder / WEIGHTS_NAME)
        settings = self.config.model_dump(mode="json")
        description = {
            "model_type": "pfcvr",
            "format_version": FORMAT_VERSION,
            "identities": self.identities,
            "model": settings,
        }
        _write_json(folder / CONFIG_NAME, description)
        _write_json(folder / "preprocessor_config.json", _preprocessing(self.config.image_size))
        self.tokenizer.save(folder)

    @classmethod
    def from_pretrained(cls: type[Model], folder: Path) -> Model:
        """Read what ``save_pretrained`` wrote, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: a file is missing or not what it should be; the weight and both shapes are named.
        """
        config, identities = _read_description(folder)
        model = cls.untrained(config, CaptionTokenizer.load(folder, config.text_length), identities)
        model.load_state_dict(_read_weights(folder, model.state_dict()))
        return model.eval()


def _preprocessing(image_size: tuple[int, int]) -> dict[str, Any]:
    """What happens to an image before the model, in the words of Transformers' image processors."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"height": image_size[0], "width": image_size[1]},
        "resample": 2,  # bilinear, as the IRRA family
        "do_center_crop": False,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_description(folder: Path) -> tuple[ModelConfig, int]:
    path = folder / CONFIG_NAME
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {CONFIG_NAME}; expected a folder written by PFCVR training") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not JSON ({error}); copy the file again") from None
    if not isinstance(description, dict) or description.get("model_type") != "pfcvr":
        raise CheckpointError(f"{path}: not the settings of a PFCVR model; expected model_type 'pfcvr'")
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, this program reads {FORMAT_VERSION}; use a pfcvr that writes that"
        )
    try:
        return parse(ModelConfig, description["model"], str(path)), int(description["identities"])
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise CheckpointError(f"{path}: {error}; copy the file again") from None


def _read_weights(folder: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        pickle = found_pickle(folder)
        hint = (
            f"{pickle.name} is a pickle, which may run code when read: {HOW_TO_CONVERT}" if pickle else "copy it again"
        )
        raise CheckpointError(f"{folder}: no {WEIGHTS_NAME}; {hint}")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); copy it again") from None
    for key in sorted(expected.keys() | weights.keys()):
        if key not in weights:
            raise CheckpointError(f"{path}: '{key}' of shape {tuple(expected[key].shape)} is missing; copy it again")
        if key not in expected:
            raise CheckpointError(f"{path}: '{key}' belongs to no part of this model; {CONFIG_NAME} is of another one")
        if weights[key].shape != expected[key].shape:
            raise CheckpointError(
                f"{path}: '{key}' has shape {tuple(weights[key].shape)}, expected {tuple(expected[key].shape)}; "
                f"{CONFIG_NAME} is of another model"
            )
    return weights
