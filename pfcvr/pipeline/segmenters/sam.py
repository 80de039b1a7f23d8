"""``--segmenter sam``: masks for boxes by Segment Anything (Kirillov et al., 2023) in Transformers."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pfcvr.config import PartsConfig
from pfcvr.pipeline.inference import Inference
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.pipeline.segmenters.masks import run_lengths, with_masks
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

DEFAULT_MODEL = "facebook/sam-vit-huge"
MODEL_TYPES = ("sam",)


class SamSegmenter:
    """Every picture with a box is encoded once, all pictures of a call together; one mask a box."""

    needs_boxes = True

    def __init__(self, config: PartsConfig) -> None:
        name = config.segmenter_model or DEFAULT_MODEL
        self.model = weights_label(name)
        self._inference = Inference(config)
        folder = find_weights(name)
        check_model_type(folder, MODEL_TYPES)
        self._folder = folder
        self._processor = load_processor("SamProcessor", folder)
        self.settings = self._inference.settings
        self.inputs = {"segmenter_model": weights_sha256(folder)}

    @cached_property
    def _network(self) -> Any:
        return self._inference.place(load_model("SamModel", self._folder, MODEL_TYPES))

    def segment(self, pictures: Sequence[Picture], found: Sequence[Found]) -> list[Found]:
        """``found`` with a mask for each instance."""
        import torch

        boxed = [number for number, own in enumerate(found) if own.instances]
        prepared = [self._prepare(pictures[number], found[number]) for number in boxed]
        result = list(found)
        if prepared:
            pixels = self._inference.place(torch.cat([own["pixel_values"] for own in prepared]))
            with self._inference.running():
                embeddings = self._network.get_image_embeddings(pixels)
            for number, own, embedding in zip(boxed, prepared, embeddings, strict=True):
                masks = self._masks(own, embedding, pictures[number].size)
                result[number] = Found(with_masks(found[number].instances, masks), found[number].vehicle)
        return result

    def close(self) -> None:
        """Memory is freed with the object."""

    def _prepare(self, picture: Picture, found: Found) -> Any:
        boxes = [[list(instance.box_xyxy) for instance in found.instances]]
        return self._processor(images=picture.rgb, input_boxes=boxes, return_tensors="pt")

    def _masks(self, prepared: Any, embedding: "Tensor", size: tuple[int, int]) -> list[Any]:
        boxes = self._inference.place(prepared["input_boxes"].float())
        with self._inference.running():
            outputs = self._network(image_embeddings=embedding[None], input_boxes=boxes, multimask_output=False)
        logits = outputs.pred_masks[0, :, 0].float()

        def to_picture(some: "Tensor") -> "Tensor":
            (full,) = self._processor.post_process_masks(
                [some[:, None]], prepared["original_sizes"], prepared["reshaped_input_sizes"]
            )
            enlarged: Tensor = full[:, 0]
            return enlarged

        return run_lengths(logits, to_picture, size)
