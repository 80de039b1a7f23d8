"""The worker that runs the original ``groundingdino-py`` in an environment of its own (see ``serve``).

What is computed is what ``groundingdino.util.inference.predict`` computes, one picture at a time, but for two things:
the picture is turned upright, and a box belongs to a phrase by the places of the phrase's words in the prompt, not by
decoded words. Settings: config, checkpoint, text_encoder, device, phrases, threshold. A result holds, for each box that
some phrase fits better than the threshold, ``box`` (x0, y0, x1, y1 in pixels), ``score`` and the index ``phrase``.
"""

import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfcvr.errors import PfcvrError, first_line
from pfcvr.pipeline.images import UnreadableImage, open_rgb
from pfcvr.pipeline.phrase_prompt import PhrasePrompt, known_characters, phrase_prompts
from pfcvr.pipeline.workers.serve import Answers, WorkerError

if TYPE_CHECKING:
    import torch
    from PIL import Image

# Configurations of groundingdino are programs: only those that the package itself brings are run.
CONFIGURATIONS = {
    "GroundingDINO_SwinT_OGC": "GroundingDINO_SwinT_OGC.py",
    "GroundingDINO_SwinB": "GroundingDINO_SwinB_cfg.py",
}
# The newest release, 0.4.0, calls what transformers 5 took away.
INSTALL = "python3 -m venv own && own/bin/python -m pip install groundingdino-py==0.4.0 'transformers<5'"
SHORT_SIDE, LONG_SIDE = 800, 1333  # groundingdino.util.inference.load_image
TEXT_TOKENS = 256


def prepare(settings: dict[str, Any]) -> Answers:
    """Load the model; raises WorkerError for a missing package, a strange configuration, and unfit weights."""
    if importlib.util.find_spec("groundingdino") is None:
        raise WorkerError(
            "missing",
            f"detector 'groundingdino' needs the package 'groundingdino-py', which {sys.executable} does not have and "
            f"which cannot share an environment with ours; run: {INSTALL}, and add --python own/bin/python",
        )
    detector = _GroundingDino(settings)

    def answer(images: list[str]) -> list[dict[str, Any]]:
        return [detector.find(Path(image)) for image in images]

    return answer


class _GroundingDino:
    """The model with its prompt."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._device = _device(settings["device"])
        self._model = _load_model(settings).to(self._device)
        self._threshold = settings["threshold"]
        self._prompts = _prompts(settings["phrases"], self._model.tokenizer)

    def find(self, path: Path) -> dict[str, Any]:
        """The boxes on one picture, or why it cannot be used."""
        import torch

        try:
            picture = open_rgb(path)
        except UnreadableImage as error:
            return {"reason": error.reason, "detail": error.detail}
        pixels = _pixels(picture)[None].to(self._device)
        found = []
        for prompt in self._prompts:
            with torch.no_grad():
                outputs = self._model(pixels, captions=[prompt.text])
            fits = outputs["pred_logits"][0].float().sigmoid()
            scores, phrases = torch.stack([fits[:, list(own)].amax(1) for own in prompt.tokens], 1).max(1)
            keep = (scores > self._threshold).nonzero()[:, 0]
            boxes = _to_pixels(outputs["pred_boxes"][0, keep].float(), picture.size)
            for box, score, phrase in zip(boxes.tolist(), scores[keep].tolist(), phrases[keep].tolist(), strict=True):
                found.append({"box": box, "score": score, "phrase": prompt.first + phrase})
        return {"found": found}


def _load_model(settings: dict[str, Any]) -> Any:
    import groundingdino.config
    from groundingdino.models import build_model
    from groundingdino.util.misc import clean_state_dict
    from groundingdino.util.slconfig import SLConfig

    name = settings["config"]
    if name not in CONFIGURATIONS:
        raise WorkerError("settings", f"unknown configuration '{name}'; choose one of: {', '.join(CONFIGURATIONS)}")
    config = SLConfig.fromfile(str(Path(groundingdino.config.__file__).with_name(CONFIGURATIONS[name])))
    config.device = "cpu"
    config.text_encoder_type = settings["text_encoder"]
    weights = clean_state_dict(_read_weights(Path(settings["checkpoint"])))
    try:
        model = build_model(config)
    except (OSError, ValueError) as error:
        raise WorkerError(
            "weights", f"{settings['text_encoder']}: no BERT for groundingdino there ({first_line(error)})"
        ) from None
    _load_weights(model, weights, f"{settings['checkpoint']}: not the weights of {name}")
    return model.eval()


def _device(asked: str) -> str:
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise WorkerError("missing", "no CUDA device for groundingdino here; use --device cpu, or a machine with a GPU")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def _read_weights(path: Path) -> "dict[str, torch.Tensor]":
    """The table ``model`` of a .pth file, read without unpickling anything but tensors."""
    import pickle

    import torch

    advice = "give --detector-model a checkpoint of the original Grounding DINO"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WorkerError("weights", f"{path}: there is no such file; {advice}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError):
        # What torch says here ends in the advice to trust the file.
        raise WorkerError("weights", f"{path}: no checkpoint, or one that holds more than tensors; {advice}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise WorkerError("weights", f"{path}: holds no table 'model'; {advice}")
    weights: dict[str, torch.Tensor] = content["model"]
    return weights


def _load_weights(model: Any, weights: "dict[str, torch.Tensor]", refusal: str) -> None:
    """Every weight of the model has to come from the file; what the file has besides is of its training."""
    own = model.state_dict()
    for name, weight in own.items():
        if name not in weights and not name.endswith("position_ids"):
            raise WorkerError("weights", f"{refusal} ('{name}' is missing); give the configuration it was made with")
        if name in weights and weights[name].shape != weight.shape:
            shapes = f"{tuple(weights[name].shape)}, {tuple(weight.shape)} expected"
            raise WorkerError("weights", f"{refusal} ('{name}' is {shapes}); give the configuration it was made with")
    model.load_state_dict(weights, strict=False)


def _prompts(phrases: list[str], tokenizer: Any) -> list[PhrasePrompt]:
    try:
        return phrase_prompts(phrases, partial(known_characters, tokenizer), TEXT_TOKENS)
    except PfcvrError as error:
        raise WorkerError("settings", str(error)) from None


def _pixels(picture: "Image.Image") -> "torch.Tensor":
    """(3, height, width), as ``groundingdino.util.inference.load_image`` makes them."""
    import groundingdino.datasets.transforms as transforms

    steps = [
        transforms.RandomResize([SHORT_SIDE], max_size=LONG_SIDE),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    pixels: torch.Tensor = transforms.Compose(steps)(picture, None)[0]
    return pixels


def _to_pixels(boxes: "torch.Tensor", size: tuple[int, int]) -> "torch.Tensor":
    """(x0, y0, x1, y1) in pixels of a picture of (width, height) from (centre, size) in shares of it."""
    import torch

    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([centre - half, centre + half], 1) * torch.tensor([*size, *size], device=boxes.device)
