"""``--segmenter segment-anything``: masks for boxes by the original package and its .pth checkpoints."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfcvr.config import PartsConfig
from pfcvr.errors import CheckpointError, UsageError
from pfcvr.files import sha256_file
from pfcvr.pipeline.inference import Inference
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.pipeline.segmenters.masks import run_lengths, with_masks
from pfcvr.pipeline.segmenters.sam_checkpoint import load_sam
from pfcvr.records import Rle

if TYPE_CHECKING:
    from torch import Tensor


class SegmentAnythingSegmenter:
    """Every picture with a box is encoded once, all pictures of a call together; one mask a box."""

    needs_boxes = True

    def __init__(self, config: PartsConfig) -> None:
        if config.segmenter_model is None:
            raise UsageError(
                "the segmenter 'segment-anything' has no weights by itself; give its .pth checkpoint with "
                "--segmenter-model FILE"
            )
        import segment_anything  # noqa: F401, so that a missing package is said before the run

        self._path = Path(config.segmenter_model)
        if not self._path.is_file():
            raise CheckpointError(f"{self._path}: there is no such file; give the .pth file with --segmenter-model")
        self.model = self._path.name
        self._inference = Inference(config)
        self.settings = self._inference.settings
        self.inputs = {"segmenter_model": sha256_file(self._path)}

    @cached_property
    def _network(self) -> Any:
        return self._inference.place(load_sam(self._path))

    @cached_property
    def _transform(self) -> Any:
        from segment_anything.utils.transforms import ResizeLongestSide

        return ResizeLongestSide(self._network.image_encoder.img_size)

    def segment(self, pictures: Sequence[Picture], found: Sequence[Found]) -> list[Found]:
        """``found`` with a mask for each instance."""
        import torch

        boxed = [number for number, own in enumerate(found) if own.instances]
        resized = [self._resized(pictures[number]) for number in boxed]
        result = list(found)
        if resized:
            with self._inference.running():
                batch = torch.stack([self._network.preprocess(pixels) for pixels in resized])
                features = self._network.image_encoder(batch)
            for number, pixels, own in zip(boxed, resized, features, strict=True):
                masks = self._masks(found[number], own[None], pixels.shape[-2:], pictures[number].size)
                result[number] = Found(with_masks(found[number].instances, masks), found[number].vehicle)
        return result

    def close(self) -> None:
        """Memory is freed with the object."""

    def _resized(self, picture: Picture) -> "Tensor":
        """[3, height, width] with the longer side as the network wants it, 0 to 255."""
        import numpy as np
        import torch

        pixels = self._transform.apply_image(np.asarray(picture.rgb))
        placed: Tensor = self._inference.place(torch.as_tensor(pixels).permute(2, 0, 1).contiguous())
        return placed

    def _masks(self, found: Found, features: "Tensor", input_size: tuple[int, ...], size: tuple[int, int]) -> list[Rle]:
        """Masks of a picture of ``size``, which had ``input_size`` (both height, width) when it became ``features``."""
        import torch

        boxes = torch.tensor([instance.box_xyxy for instance in found.instances], device=self._inference.device)
        with self._inference.running():
            sparse, dense = self._network.prompt_encoder(
                points=None, boxes=self._transform.apply_boxes_torch(boxes, size), masks=None
            )
            logits, _ = self._network.mask_decoder(
                image_embeddings=features,
                image_pe=self._network.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )

        def to_picture(some: "Tensor") -> "Tensor":
            full = self._network.postprocess_masks(some[:, None], input_size, size)
            inside: Tensor = full[:, 0] > self._network.mask_threshold
            return inside

        return run_lengths(logits[:, 0].float(), to_picture, size)
