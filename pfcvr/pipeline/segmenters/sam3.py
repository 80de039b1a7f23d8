"""``--segmenter sam3``: parts found and cut out by phrases alone, by SAM 3 (Carion et al., 2025) in Transformers."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pfcvr.config import PartsConfig
from pfcvr.pipeline.inference import Inference
from pfcvr.pipeline.phrases import Answer, load_phrases
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.pipeline.segmenters.masks import run_lengths
from pfcvr.pipeline.weights import (
    check_model_type,
    find_weights,
    load_model,
    load_processor,
    weights_label,
    weights_sha256,
)

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_MODEL = "facebook/sam3"
MODEL_TYPES = ("sam3", "sam3_video")  # the second holds a tracker for videos besides, which is left out


class Sam3Segmenter:
    """Every picture is encoded once, all pictures of a call together, and every phrase once for the whole run.

    An instance's score is that of its query times that of the phrase being on the picture at all.
    """

    needs_boxes = False

    def __init__(self, config: PartsConfig) -> None:
        name = config.segmenter_model or DEFAULT_MODEL
        self.model = weights_label(name)
        self._phrases = load_phrases(config)
        self._inference = Inference(config)
        folder = find_weights(name)
        check_model_type(folder, MODEL_TYPES)
        self._folder = folder
        self._processor = load_processor("Sam3Processor", folder)
        self._thresholds = self._phrases.thresholds
        self.settings = {"threshold": str(self._thresholds.instance), "mask_threshold": str(self._thresholds.mask)}
        self.settings |= self._inference.settings
        self.inputs = {"segmenter_model": weights_sha256(folder), "phrases": self._phrases.sha256}

    @cached_property
    def _network(self) -> Any:
        return self._inference.place(load_model("Sam3Model", self._folder, MODEL_TYPES))

    @cached_property
    def _prompts(self) -> "list[tuple[Any, Tensor]]":
        """Text features and attention mask of every phrase."""
        return [self._encode_phrase(phrase) for phrase in self._phrases.texts]

    def segment(self, pictures: Sequence[Picture], found: Sequence[Found]) -> list[Found]:
        """The instances of every phrase; ``found`` is not looked at."""
        pixels = self._processor.image_processor(images=[picture.rgb for picture in pictures], return_tensors="pt")
        answers: list[list[Answer]] = [[] for _ in pictures]
        with self._inference.running():
            vision = self._network.get_vision_features(self._inference.place(pixels["pixel_values"]))
            for phrase, (text, attention) in enumerate(self._prompts):
                outputs = self._network(
                    vision_embeds=vision,
                    text_embeds=_repeated(text, len(pictures)),
                    attention_mask=attention.expand(len(pictures), -1),
                )
                for number, picture in enumerate(pictures):
                    answers[number].extend(self._answers(phrase, outputs, number, picture.size))
        return [self._phrases.found(own) for own in answers]

    def close(self) -> None:
        """Memory is freed with the object."""

    def _encode_phrase(self, phrase: str) -> tuple[Any, "Tensor"]:
        """Text features and attention mask, each for a batch of one."""
        inputs = self._inference.place(self._processor(text=phrase, return_tensors="pt"))
        with self._inference.running():
            return self._network.get_text_features(**inputs), inputs["attention_mask"]

    def _answers(self, phrase: int, outputs: Any, number: int, size: tuple[int, int]) -> Iterator[Answer]:
        """The instances of one phrase on picture ``number`` of the batch."""
        from torch.nn import functional

        scores = outputs.pred_logits[number].float().sigmoid() * outputs.presence_logits[number].float().sigmoid()
        kept = (scores > self._thresholds.instance).nonzero()[:, 0]
        height, width = size
        shares = outputs.pred_boxes[number, kept].float()
        boxes = shares * shares.new_tensor([width, height, width, height])

        def to_picture(some: "Tensor") -> "Tensor":
            full = functional.interpolate(some[None], size=size, mode="bilinear", align_corners=False)[0]
            return full > self._thresholds.mask

        masks = run_lengths(outputs.pred_masks[number, kept].float().sigmoid(), to_picture, size)
        for (x0, y0, x1, y1), score, mask in zip(boxes.tolist(), scores[kept].tolist(), masks, strict=True):
            yield Answer(phrase, (x0, y0, x1, y1), score, mask)


def _repeated(text: Any, count: int) -> Any:
    """Text features of a batch of one as those of ``count`` pictures."""
    repeated = type(text)(**text)
    repeated.pooler_output = text.pooler_output.expand(count, -1, -1)
    return repeated
