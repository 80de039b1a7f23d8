"""A trained model as one folder: weights (safetensors), settings, tokenizer, preprocessing, and a model card.

The same folder is what a model's repository on the Hugging Face Hub holds.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pfcvr.config import ModelConfig, parse
from pfcvr.errors import CheckpointError, HubError, UsageError, first_line
from pfcvr.hub import HUB_NAME, MANIFEST_NAME, HubRepository, Publication, check_token, publish
from pfcvr.model.clip import IMAGE_MEAN, IMAGE_STD
from pfcvr.model.openai_clip import HOW_TO_CONVERT, found_pickle
from pfcvr.model.tensors import save_tensors
from pfcvr.model.tokenizer import CaptionTokenizer

WEIGHTS_NAME, CONFIG_NAME, CARD_NAME = "model.safetensors", "config.json", "README.md"
PREPROCESSING_NAME, TOKENIZER_NAMES = "preprocessor_config.json", ("tokenizer.json", "tokenizer_config.json")
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

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), settings, tokenizer, preprocessing and a card into ``folder``, made if needed.

        A card that is there already stays as somebody wrote it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {key: value.contiguous() for key, value in self.state_dict().items()}
        save_tensors(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
        description = {
            "model_type": "pfcvr",
            "format_version": FORMAT_VERSION,
            "identities": self.identities,
            "model": self.config.model_dump(mode="json"),
        }
        _write_json(folder / CONFIG_NAME, description)
        _write_json(folder / PREPROCESSING_NAME, _preprocessing(self.config.image_size))
        self.tokenizer.save(folder)
        if not (folder / CARD_NAME).exists():
            (folder / CARD_NAME).write_text(_model_card(self.config), encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls: type[Model],
        source: str | Path,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Model:
        """Read what ``save_pretrained`` wrote, in evaluation mode, on the CPU.

        Args:
            source: a folder, or the name OWNER/NAME of a model on the Hub.
            revision: branch, tag or commit on the Hub; a folder has none.
            token: access token of the Hub; none: the one of this machine, if any.
            cache_dir: where downloads are kept; none: where the Hub's client keeps them.
            local_files_only: take what was downloaded before and ask nobody.

        Raises:
            CheckpointError: a file is missing or not what it should be; the weight and both shapes are named.
            HubError: the Hub has no such model or was not reached.
        """
        folder = Path(source)
        if not folder.exists() and HUB_NAME.fullmatch(str(source)):
            check_token(str(source), token)
            where = {"cache_dir": cache_dir, "local_files_only": local_files_only}
            folder = _download(str(source), revision=revision, token=token, **where)
        config, identities = _read_description(folder)
        model = cls.untrained(config, CaptionTokenizer.load(folder, config.text_length), identities)
        model.load_state_dict(_read_weights(folder, model.state_dict()))
        return model.eval()

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload a PFCVR model",
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the model to ``repo_id`` (OWNER/NAME) on the Hub, made if needed, and compare what arrived.

        A model card that is there already is not replaced, and nothing is sent when nothing is missing.

        Args:
            repo_id: the model's name on the Hub.
            private: true is seen to for the whole repository before anything is sent; none: a repository that is there
                stays as it is, a new one becomes what the owner's account says.
            token: access token of the Hub; none: the one of this machine.
            commit_message: also the title of a pull request.
            revision: the branch to commit to, made from the main branch if needed; ``from_pretrained`` reads it by the
                same name. None: the main branch.
            create_pr: open a pull request to the main branch instead; whoever may not write there may do that.

        Returns:
            The address of the commit that holds the model, or of the pull request; none is opened for a model that is
            there already.

        Raises:
            HubError: the Hub refused it or was not reached, the repository holds what ``pfcvr push`` published, or
                ``create_pr`` is asked for together with another branch.
        """
        with TemporaryDirectory() as name:
            folder = Path(name)
            publication = Publication(
                folder, repo_id, "model", private, message=commit_message, revision=revision, create_pr=create_pr
            )
            there = HubRepository(repo_id, "model", token, revision).standing()
            if there is not None and MANIFEST_NAME in there.files:
                raise HubError(
                    f"{repo_id}: holds a run with its recipe and results, which would be those of another model; "
                    "publish the new run with pfcvr push, or give another name"
                )
            self.save_pretrained(folder)
            if there is not None and CARD_NAME in there.files:
                (folder / CARD_NAME).unlink()
            return publish(publication, overwrite=True, token=token).address


def _download(repo_id: str, **how: Any) -> Path:
    import httpx2
    from huggingface_hub import snapshot_download

    files = [WEIGHTS_NAME, CONFIG_NAME, PREPROCESSING_NAME, *TOKENIZER_NAMES]
    try:
        return Path(snapshot_download(repo_id, allow_patterns=files, **how))
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise HubError(
            f"{repo_id}: neither a folder here nor a model that the Hub gives ({first_line(error)}); check the name"
        ) from None


def card_tags(config: ModelConfig) -> list[str]:
    """What the Hub lists the model under; CLIP only where it began as one."""
    return ["vehicle-re-identification", "text-to-image-retrieval", *(["clip"] if config.backbone else []), "pfcvr"]


def what_it_does(config: ModelConfig) -> str:
    """The first sentence of a card."""
    features = "two CLIP features" if config.backbone else "a feature of the sentence and one of the image"
    return f"Finds images of a vehicle by a sentence about it: the score is the cosine of {features}."


def usage(name: str) -> str:
    """How the model ``name`` is used from Python, for a card."""
    return f"""```python
from pfcvr.model.pfcvr import PfcvrModel

model = PfcvrModel.from_pretrained("{name}")
images = model.embed_images(["car.jpg"])  # paths or PIL images
(text,) = model.embed_texts(["a white SUV with roof rails"])
scores = images @ text  # a cosine for each image
```"""


def _model_card(config: ModelConfig) -> str:
    towers, (rows, cols) = config.towers, config.image_size
    tags = "\n".join(f"- {tag}" for tag in card_tags(config))
    return f"""---
library_name: pfcvr
tags:
{tags}
---

# A PFCVR model

{what_it_does(config)}
Features are {towers.embedding_dim} numbers wide. Images are stretched to {rows} x {cols} px and read in patches of
{towers.patch_size} px, captions up to {config.text_length} tokens.

{usage("OWNER/NAME")}

Weights are safetensors; `config.json` holds the settings, the other files the tokenizer and the preprocessing.
"""


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
    except (FileNotFoundError, NotADirectoryError):
        inside = folder / "model"  # of a run
        hint = f", as {inside} is" if (inside / CONFIG_NAME).is_file() else ""
        raise CheckpointError(
            f"{folder}: no {CONFIG_NAME}; expected a folder written by PFCVR training{hint}"
        ) from None
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
        config, identities = parse(ModelConfig, description["model"], str(path)), description["identities"]
    except (KeyError, UsageError) as error:
        raise CheckpointError(f"{path}: {error}; copy the file again") from None
    if not isinstance(identities, int) or identities < 1:
        raise CheckpointError(f"{path}: identities is {identities!r}, expected a number from 1 on; copy the file again")
    return config, identities


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
