"""Weights of Transformers models by name or path: found, hashed, and loaded with one sentence for whatever is wrong."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pfcvr.errors import CheckpointError, first_line
from pfcvr.files import sha256_file
from pfcvr.hub import check_token
from pfcvr.progress import quiet_transformers
from pfcvr.wording import amount

WEIGHT_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
# Each line is enough by itself. Without any of them Transformers makes a tokenizer that knows special tokens alone.
TOKENIZER_FILES = (
    ("tokenizer.json",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
    ("*.model",),
    ("tekken.json",),
)


def find_weights(name: str) -> Path:
    """The folder ``name``, or the local copy of the Hub's model ``name``: ``OWNER/MODEL`` or ``OWNER/MODEL@REVISION``.

    What is not in the Hub's cache yet is downloaded. Raises CheckpointError when there is neither, HubError where the
    access token cannot be one.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(f"{name}: no folder with a Transformers model; give one, or a model's name on the Hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    check_token(name)
    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(WEIGHT_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"{name}: no such folder here, and the Hub does not give a model of that name ({type(error).__name__}); "
            "check the name, your access and the network, or give a folder"
        ) from None


def weights_label(name: str) -> str:
    """What records call the weights ``name``: a Hub name as it is, of a path the last step."""
    return Path(name).name if Path(name).exists() else name


def weights_sha256(folder: Path, patterns: Sequence[str] = WEIGHT_FILES) -> str:
    """One hash over the names and bytes of all files that a model is loaded from."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    hashes = "".join(f"{path.name} {sha256_file(path)}\n" for path in files)
    return hashlib.sha256(hashes.encode()).hexdigest()


def load_model(class_name: str, folder: Path, model_types: Sequence[str], precision: str = "float32") -> Any:
    """``transformers.<class_name>`` from ``folder``, its weights in ``precision``, in evaluation mode.

    Raises CheckpointError when the folder holds another kind of model (``model_types`` are those of config.json that
    the class reads; none for whatever it takes), or weights that are missing, of another shape, or damaged.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    model_type = check_model_type(folder, model_types)
    try:
        with quiet_transformers():
            model, report = getattr(transformers, class_name).from_pretrained(
                folder,
                output_loading_info=True,
                dtype=getattr(torch, precision),
                local_files_only=True,
                use_safetensors=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the weights of {model_type} cannot be loaded ({first_line(error)}); get the folder anew"
        ) from None
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise CheckpointError(
            f"{folder}: {amount(len(lacking), 'weight')} of {model_type} missing, first '{lacking[0]}'; "
            "get the folder anew"
        )
    return model.eval()


def load_processor(class_name: str, folder: Path) -> Any:
    """``transformers.<class_name>`` from ``folder``; raises CheckpointError when its files are missing or unfit."""
    import transformers

    try:
        with quiet_transformers():
            processor = getattr(transformers, class_name).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: no processor for {class_name.removesuffix('Processor')} there ({first_line(error)}); "
            "get the whole folder, with preprocessor and tokenizer files"
        ) from None
    if hasattr(processor, "tokenizer"):
        check_tokenizer_files(folder)
    return processor


def check_model_type(folder: Path, expected: Sequence[str]) -> str:
    """The ``model_type`` of config.json in ``folder``; raises CheckpointError for one not ``expected`` (if any is)."""
    path = folder / "config.json"
    wanted = f" of type '{expected[0]}'" if expected else ""
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: no config.json there; give the folder of a Transformers model{wanted}"
        ) from None
    except ValueError:
        raise CheckpointError(f"{path}: not readable as JSON; get the folder anew") from None
    found = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(found, str) or (expected and found not in expected):
        raise CheckpointError(
            f"{folder}: holds a model of type '{found}', expected one{wanted}; give the weights that fit the backend"
        )
    return found


def check_tokenizer_files(folder: Path) -> None:
    """Raise CheckpointError unless ``folder`` holds the vocabulary of a tokenizer, in one form or another."""
    if not any(all(any(folder.glob(pattern)) for pattern in files) for files in TOKENIZER_FILES):
        raise CheckpointError(
            f"{folder}: no vocabulary of a tokenizer there, expected tokenizer.json, vocab.txt, or vocab.json with "
            "merges.txt; get the whole folder"
        )
