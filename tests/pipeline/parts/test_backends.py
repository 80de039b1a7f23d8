"""One contract for every detector and segmenter, and for each the library's own call on the same picture."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models.sam import original_sam

from pfcvr import geometry
from pfcvr.config import PartsConfig
from pfcvr.errors import UsageError
from pfcvr.pipeline.detectors.grounding_dino import GroundingDinoDetector
from pfcvr.pipeline.phrase_prompt import known_characters
from pfcvr.pipeline.phrases import load_phrases
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.pipeline.segmenters.sam import SamSegmenter
from pfcvr.pipeline.segmenters.sam3 import Sam3Segmenter
from pfcvr.pipeline.segmenters.segment_anything import SegmentAnythingSegmenter
from pfcvr.records import PartInstance

Make = Callable[..., PartsConfig]
BOXES = [(5.0, 5.0, 50.0, 40.0), (20.5, 3.0, 80.0, 50.25), (0.0, 0.0, 90.0, 60.0)]
ENCODERS = {"sam": "vision_encoder", "segment-anything": "image_encoder", "sam3": "vision_encoder"}


def boxed(picture: Picture, count: int = 3) -> Found:
    """Boxes of BOXES, in the picture's scale."""
    height, width = picture.size
    scale = (width / 90, height / 60) * 2
    boxes = [tuple(value * factor for value, factor in zip(box, scale, strict=True)) for box in BOXES[:count]]
    return Found(tuple(PartInstance(part="doors", box_xyxy=box, score=0.5) for box in boxes))


def find(name: str, config: Make, **more: Any) -> Callable[[list[Picture]], list[Found]]:
    """The backend ``name`` as a function of pictures alone; of a segmenter, ``find(...).args[0]`` is the object."""
    if name == "grounding-dino":
        detector = GroundingDinoDetector(None, config(name, "none", **more))
        return detector.detect
    kinds = {"sam": SamSegmenter, "segment-anything": SegmentAnythingSegmenter, "sam3": Sam3Segmenter}
    segmenter = kinds[name](config("none" if name == "sam3" else "grounding-dino", name, **more))
    return partial(_segment, segmenter)


def _segment(segmenter: Any, pictures: list[Picture]) -> list[Found]:
    return segmenter.segment(pictures, [boxed(picture) for picture in pictures])


@pytest.mark.parametrize("name", ["grounding-dino", "sam", "segment-anything", "sam3"])
def test_an_answer_does_not_depend_on_the_other_pictures_of_the_call(name: str, config: Make, picture) -> None:
    search = find(name, config)
    shapes = [(90, 60), (60, 90), (90, 60), (47, 31), (33, 150)]
    pictures = [picture(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    together = search(pictures)
    assert len(together) == len(pictures)
    assert sum(len(found.instances) for found in together) >= 5
    for alone, beside in zip([search([own])[0] for own in pictures], together, strict=True):
        assert [own.part for own in beside.instances] == [own.part for own in alone.instances]
        for own, other in zip(beside.instances, alone.instances, strict=True):
            assert own.score == pytest.approx(other.score, abs=1e-5)
            assert own.box_xyxy == pytest.approx(other.box_xyxy, abs=1e-2)
            assert different_pixels(own, other) <= 2


def different_pixels(one: PartInstance, other: PartInstance) -> int:
    if one.mask is None or other.mask is None:
        assert one.mask is other.mask
        return 0
    return int((geometry.decode_mask(one.mask) != geometry.decode_mask(other.mask)).sum())


@pytest.mark.parametrize("name", ["grounding-dino", "sam", "segment-anything", "sam3"])
def test_scores_lie_between_zero_and_one_and_masks_have_the_size_of_their_picture(
    name: str, config: Make, picture
) -> None:
    for found, own in zip(find(name, config)(two := [picture(90, 60), picture(31, 70)]), two, strict=True):
        for instance in found.instances:
            assert 0 < instance.score <= 1
            assert (instance.mask is None) == (name == "grounding-dino")
            assert instance.mask is None or geometry.decode_mask(instance.mask).shape == own.size


@pytest.mark.parametrize("name", ["sam", "segment-anything"])
def test_pictures_without_boxes_stay_as_they_are(name: str, config: Make, picture) -> None:
    segmenter = find(name, config).args[0]
    nothing = Found(vehicle=(1, 2, 3, 4))
    assert segmenter.segment([], []) == []
    assert segmenter.segment([picture(90, 60)], [nothing]) == [nothing]
    own = picture(90, 60, seed=1)
    beside = segmenter.segment([picture(90, 60), own], [nothing, boxed(own)])
    assert beside == [nothing, *segmenter.segment([own], [boxed(own)])]


@pytest.mark.parametrize("name", ["grounding-dino", "sam3"])
def test_finding_nothing_is_a_normal_answer(name: str, config: Make, picture) -> None:
    assert find(name, config, threshold=0.9999)([picture(90, 60), picture(31, 70)]) == [Found(), Found()]


@pytest.mark.parametrize("name", ["sam", "segment-anything", "sam3"])
def test_every_image_is_encoded_once_for_all_its_boxes_or_phrases(name: str, config: Make, picture) -> None:
    pictures = [picture(90, 60, seed=seed) for seed in range(3)] + [picture(40, 70)]
    search = find(name, config)
    encoder = getattr(search.args[0]._network, ENCODERS[name])
    taken: list[int] = []
    encoder.register_forward_pre_hook(lambda module, inputs: taken.append(len(inputs[0])))
    assert all(len(found.instances) > 1 for found in search(pictures))
    assert taken == [len(pictures)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sam_gives_the_masks_of_a_direct_call(precision: str, config: Make, picture, sam) -> None:
    from transformers import SamModel, SamProcessor

    model, processor = SamModel.from_pretrained(sam).eval(), SamProcessor.from_pretrained(sam)
    own = picture(90, 60)
    inputs = processor(images=own.rgb, input_boxes=[[list(box) for box in BOXES]], return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        outputs = model(**inputs, multimask_output=False)
    (masks,) = processor.post_process_masks(
        outputs.pred_masks.float(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    (found,) = find("sam", config, precision=precision)([own])
    assert [instance.box_xyxy for instance in found.instances] == BOXES
    assert_masks(found, masks[:, 0].numpy())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_segment_anything_gives_the_masks_of_its_predictor(precision, config, picture, segment_anything) -> None:
    from segment_anything import SamPredictor

    network = original_sam()
    network.load_state_dict(torch.load(segment_anything, weights_only=True))
    predictor = SamPredictor(network)
    own = picture(90, 60)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        predictor.set_image(np.asarray(own.rgb))
        boxes = predictor.transform.apply_boxes_torch(torch.tensor(BOXES), own.size)
        logits = predictor.predict_torch(None, None, boxes, multimask_output=False)[2]
    masks = network.postprocess_masks(logits.float(), predictor.input_size, own.size) > network.mask_threshold
    (found,) = find("segment-anything", config, precision=precision)([own])
    assert_masks(found, masks[:, 0].numpy())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sam3_gives_the_instances_of_a_direct_call_for_each_phrase(precision, config, picture, sam3) -> None:
    from transformers import Sam3Model, Sam3Processor

    model, processor = Sam3Model.from_pretrained(sam3).eval(), Sam3Processor.from_pretrained(sam3)
    own, asked = picture(90, 60), load_phrases(config("none", "sam3"))
    expected = []
    for phrase, part in zip(asked.texts, asked.targets, strict=True):
        inputs = processor(images=own.rgb, text=phrase, return_tensors="pt")
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            outputs = model(**inputs)
        for name in ("pred_masks", "pred_boxes", "pred_logits", "presence_logits"):
            outputs[name] = outputs[name].float()
        (result,) = processor.post_process_instance_segmentation(
            outputs, threshold=0.3, mask_threshold=0.5, target_sizes=[own.size]
        )
        rows = zip(result["scores"].tolist(), result["boxes"].tolist(), result["masks"].numpy(), strict=True)
        expected += [(part, score, box, mask) for score, box, mask in rows if part != "vehicle"]
    (found,) = find("sam3", config, precision=precision)([own])
    assert len(found.instances) == len(expected) > 5
    close = 1e-5 if precision == "float32" else 1e-2
    for instance, (part, score, box, _) in zip(found.instances, expected, strict=True):
        assert instance.part == part
        assert instance.score == pytest.approx(score, abs=close)
        assert instance.box_xyxy == pytest.approx(box, abs=100 * close)
    if precision == "float32":
        assert_masks(found, np.stack([mask for *_, mask in expected]).astype(bool))


def test_sam3_with_a_tracker_for_videos_beside_it_is_the_same_sam3(config, picture, sam3, tmp_path) -> None:
    folder = Path(shutil.copytree(sam3, tmp_path / "video"))
    own_config = json.loads((sam3 / "config.json").read_text())
    whole = {"model_type": "sam3_video", "detector_config": own_config}
    (folder / "config.json").write_text(json.dumps(whole | {"tracker_config": {"model_type": "sam3_tracker_video"}}))
    weights = {f"detector_model.{name}": tensor for name, tensor in load_file(sam3 / "model.safetensors").items()}
    tracker = {"tracker_model.memory.weight": torch.ones(2, 2)}
    save_file(weights | tracker, folder / "model.safetensors", {"format": "pt"})
    own = picture(90, 60)
    (alone,) = find("sam3", config)([own])
    assert find("sam3", config, segmenter_model=str(folder))([own]) == [alone]
    assert alone.instances


def assert_masks(found: Found, masks: np.ndarray) -> None:
    """Equal masks, but for pixels on an edge that rounding may take to either side."""
    assert len(found.instances) == len(masks)
    for instance, mask in zip(found.instances, masks, strict=True):
        decoded = geometry.decode_mask(instance.mask)
        assert mask.shape == decoded.shape
        assert (decoded != mask).mean() <= 0.002
    assert any(0.05 < mask.mean() < 0.95 for mask in masks), "masks that are all or nothing show little"


@pytest.mark.parametrize("shape", [(90, 60), (47, 31), (20, 75)])
def test_grounding_dino_gives_the_boxes_of_a_direct_call_where_its_words_are_unambiguous(
    shape, config, picture, grounding_dino, tmp_path
) -> None:
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    words = {"window": "windows", "wheel": "wheels", "door": "doors", "mirror": "mirrors", "roof": "roof"}
    file = tmp_path / "words.toml"
    file.write_text('name = "w"\nversion = 1\n[phrases]\n' + "".join(f'{p} = ["{w}"]\n' for w, p in words.items()))
    own = picture(*shape)
    processor = GroundingDinoProcessor.from_pretrained(grounding_dino)
    inputs = processor(images=own.rgb, text="window . wheel . door . mirror . roof .", return_tensors="pt")
    with torch.no_grad():
        outputs = GroundingDinoForObjectDetection.from_pretrained(grounding_dino).eval()(**inputs)
    (found,) = find("grounding-dino", config, phrases=file, threshold=0.5)([own])
    of_the_start = outputs.logits[0, :, 0].sigmoid().tolist()  # the library's score counts [CLS] too, its words do not
    compared = set()
    for words_above in np.linspace(0.5, 0.95, 91):
        (result,) = processor.post_process_grounded_object_detection(
            outputs, threshold=0.5, text_threshold=float(words_above), target_sizes=[own.size]
        )
        for label, score, box in zip(
            result["text_labels"], result["scores"].tolist(), result["boxes"].tolist(), strict=True
        ):
            if label in words:
                (same,) = [one for one in found.instances if one.box_xyxy == pytest.approx(box, abs=1e-3)]
                assert same.part == words[label]
                assert same.score == pytest.approx(score, abs=1e-5) or score in of_the_start
                compared.add(same.box_xyxy)
    assert len(compared) > 2


def test_grounding_dino_keeps_exactly_the_boxes_that_some_phrase_fits_better_than_the_threshold(
    config, picture, grounding_dino
) -> None:
    """Against the model's own logits, token by token."""
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    own, asked = picture(90, 60), load_phrases(config("grounding-dino", "none"))
    processor = GroundingDinoProcessor.from_pretrained(grounding_dino)
    inputs = processor(images=own.rgb, text=" . ".join(asked.texts) + " .", return_tensors="pt")
    with torch.no_grad():
        outputs = GroundingDinoForObjectDetection.from_pretrained(grounding_dino).eval()(**inputs)
    fits = outputs.logits[0].sigmoid()
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    number, phrase_of = 0, {}
    for place, token in enumerate(tokens):
        if token == ".":
            number += 1
        elif token not in ("[CLS]", "[SEP]"):
            phrase_of[place] = number
    expected = []
    for query in range(fits.shape[0]):
        best = max(phrase_of, key=lambda place: fits[query, place])
        if fits[query, best] > 0.6 and asked.targets[phrase_of[best]] != "vehicle":
            expected.append((asked.targets[phrase_of[best]], pytest.approx(fits[query, best].item(), abs=1e-5)))
    (found,) = find("grounding-dino", config)([own])
    assert [(instance.part, instance.score) for instance in found.instances] == expected
    assert len(expected) > 3


def test_more_phrases_than_a_prompt_holds_are_asked_in_several(config, picture, tmp_path, grounding_dino) -> None:
    many = tmp_path / "many.toml"
    words = [f"{first}{second}{third} window" for first in "abcdef" for second in "ghij" for third in "klm"]
    many.write_text(f'name = "many"\nversion = 1\n[phrases]\nwindows = {words}\nwheels = ["wheel"]\n'.replace("'", '"'))
    detector = GroundingDinoDetector(None, config("grounding-dino", "none", phrases=many, threshold=0.6))
    asked: list[int] = []
    detector._network.register_forward_pre_hook(
        lambda module, args, named: asked.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    (found,) = detector.detect([picture(90, 60)])
    assert len(asked) == 2
    assert max(asked) <= 256
    assert {instance.part for instance in found.instances} <= {"windows", "wheels"}
    assert found.instances


def test_unknown_words_are_no_tokens_of_a_phrase_and_a_phrase_of_them_alone_is_refused(
    config, picture, tmp_path
) -> None:
    def find_roofs(phrase: str) -> Found:
        file = tmp_path / "phrases.toml"
        file.write_text(f'name = "two"\nversion = 1\n[phrases]\nroof = ["{phrase}"]\nwheels = ["wheel"]\n')
        return find("grounding-dino", config, phrases=file, threshold=0.5)([picture(90, 60)])[0]

    with pytest.raises(UsageError, match="the phrase '🚗' has no token that the model knows; use other"):
        find_roofs("🚗")
    detector = GroundingDinoDetector(None, config("grounding-dino", "none"))
    spans = known_characters(detector._processor.tokenizer, "🚗 roof .")
    assert spans == [(0, 0), (0, 0), (2, 6), (7, 8), (0, 0)]
    assert find_roofs("🚗 roof").instances


@pytest.mark.parametrize("name", ["grounding-dino", "sam", "segment-anything", "sam3"])
@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(Image.new("RGB", (12, 12), "red"), id="12 pixels"),
        pytest.param(Image.new("RGB", (600, 20), "red"), id="30:1"),
        pytest.param(Image.new("RGB", (20, 600), "red"), id="1:30"),
        pytest.param(Image.linear_gradient("L"), id="greyscale"),
        pytest.param(Image.linear_gradient("L").convert("CMYK").convert("P"), id="palette"),
    ],
)
def test_odd_pictures_are_answered_like_others(name: str, pixels: Image.Image, config: Make, picture) -> None:
    own = picture(*pixels.size, pixels=pixels, name="odd")
    (found,) = find(name, config, threshold=0.2)([own])
    assert found.instances
    for instance in found.instances:
        assert np.isfinite(instance.box_xyxy).all()
        assert instance.mask is None or instance.mask.size == own.size


@pytest.mark.parametrize("name", ["grounding-dino", "sam", "segment-anything", "sam3"])
def test_forty_megapixels_are_answered_at_full_size(name: str, config: Make, picture, tmp_path) -> None:
    own = picture(8000, 5000, pixels=Image.linear_gradient("L").resize((8000, 5000)), name="large")
    single = tmp_path / "single.toml"
    single.write_text('name = "single"\nversion = 1\n[phrases]\nwheels = ["wheel"]\n')
    search = find(name, config, phrases=single, threshold=0.5)
    if name in ("sam", "segment-anything"):
        (found,) = search.args[0].segment([own], [boxed(own, count=1)])
    else:
        (found,) = search([own])
    assert found.instances
    assert max(value for instance in found.instances for value in instance.box_xyxy) > 1333
    assert all(instance.mask is None or instance.mask.size == (5000, 8000) for instance in found.instances)
