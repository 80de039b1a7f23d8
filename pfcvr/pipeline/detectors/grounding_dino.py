"""``--detector grounding-dino``: boxes for part phrases by Grounding DINO (Liu et al., 2023) in Transformers."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from pfcvr.config import PartsConfig
from pfcvr.pipeline.inference import Inference
from pfcvr.pipeline.phrase_prompt import PhrasePrompt, known_characters, phrase_prompts
from pfcvr.pipeline.phrases import Answer, load_phrases
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.pipeline.weights import (
    check_model_type,
    find_weights,
    load_model,
    load_processor,
    weights_label,
    weights_sha256,
)
from pfcvr.records import Rejected
from pfcvr.store import Workspace

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_MODEL = "IDEA-Research/grounding-dino-base"
MODEL_TYPES = ("grounding-dino",)


class GroundingDinoDetector:
    """One forward pass for a prompt that holds all phrases.

    A phrase fits a box as well as the best of its tokens does; a box is the phrase's that fits it best. Pictures go
    through the model together where they have the same size as the model sees them: it pads the others, and what
    padding does to an image depends on the images beside it.
    """

    reads_pixels = True
    rejected_count = 0

    def __init__(self, workspace: Workspace, config: PartsConfig) -> None:
        name = config.detector_model or DEFAULT_MODEL
        self.model = weights_label(name)
        self._phrases = load_phrases(config)
        self._threshold = self._phrases.thresholds.box
        self._inference = Inference(config)
        folder = find_weights(name)
        check_model_type(folder, MODEL_TYPES)
        self._folder = folder
        self._processor = load_processor("GroundingDinoProcessor", folder)
        self.settings = {"threshold": str(self._threshold), **self._inference.settings}
        self.inputs = {"detector_model": weights_sha256(folder), "phrases": self._phrases.sha256}

    @cached_property
    def _network(self) -> Any:
        return self._inference.place(load_model("GroundingDinoForObjectDetection", self._folder, MODEL_TYPES))

    @cached_property
    def _prompts(self) -> list[PhrasePrompt]:
        spans_of = partial(known_characters, self._processor.tokenizer)
        return phrase_prompts(self._phrases.texts, spans_of, self._network.config.max_text_len)

    def detect(self, pictures: Sequence[Picture]) -> list[Found]:
        """The boxes of each picture that fit some phrase better than the threshold."""
        answers: list[list[Answer]] = [[] for _ in pictures]
        by_size: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        for number, picture in enumerate(pictures):
            pixels = self._processor.image_processor(images=picture.rgb, return_tensors="pt")["pixel_values"]
            by_size.setdefault(tuple(pixels.shape), []).append((number, pixels))
        for same_size in by_size.values():
            numbers = [number for number, _ in same_size]
            self._detect_same_size(
                [pixels for _, pixels in same_size],
                [pictures[number] for number in numbers],
                [answers[number] for number in numbers],
            )
        return [self._phrases.found(own) for own in answers]

    def rejected(self) -> Iterator[Rejected]:
        """Nothing: every picture is looked at."""
        return iter(())

    def close(self) -> None:
        """Memory is freed with the object."""

    def _detect_same_size(self, pixels: "list[Tensor]", pictures: list[Picture], answers: list[list[Answer]]) -> None:
        """Add to ``answers`` what is found on ``pictures``, whose ``pixels`` are of one size."""
        import torch

        batch = self._inference.place(torch.cat(pixels))
        for prompt in self._prompts:
            text = self._processor.tokenizer([prompt.text] * len(pictures), return_tensors="pt")
            with self._inference.running():
                outputs = self._network(pixel_values=batch, **self._inference.place(text))
            fits, boxes = outputs.logits.float().sigmoid().cpu(), outputs.pred_boxes.float().cpu()
            for picture, own, own_fits, own_boxes in zip(pictures, answers, fits, boxes, strict=True):
                own.extend(self._answers(prompt, own_fits, own_boxes, picture.size))

    def _answers(
        self, prompt: PhrasePrompt, fits: "Tensor", boxes: "Tensor", size: tuple[int, int]
    ) -> Iterator[Answer]:
        """From ``fits`` [queries, tokens] in [0, 1] and ``boxes`` [queries, 4]: centre, size; shares of the image."""
        import torch

        scores, phrases = torch.stack([fits[:, list(own)].amax(dim=1) for own in prompt.tokens], dim=1).max(dim=1)
        height, width = size
        centres, halves = boxes[:, :2], boxes[:, 2:] / 2
        corners = torch.cat([centres - halves, centres + halves], dim=1) * torch.tensor([width, height, width, height])
        for query in (scores > self._threshold).nonzero()[:, 0].tolist():
            x0, y0, x1, y1 = corners[query].tolist()
            yield Answer(prompt.first + int(phrases[query]), (x0, y0, x1, y1), float(scores[query]))
