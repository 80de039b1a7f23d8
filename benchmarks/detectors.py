"""Images per second of each detector and segmenter with random weights, and how often an image is encoded.

    python benchmarks/detectors.py [--size real|tiny --backends sam,sam3 --device cuda --images 4 --batch 2] [--json]
    python benchmarks/detectors.py --backends groundingdino --python ENVIRONMENT/bin/python

``real`` has the sizes of the published grounding-dino-tiny, sam-vit-base (both packages) and sam3 models; sam3 writes a
folder of 3.4 GB. Segmenters that need boxes get twelve an image. One batch to warm up is not counted. groundingdino
runs in the environment of ``--python`` (make test-backends builds one), has the packaged Swin-T's size with a small
BERT, and does not tell from there how often it encodes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pfcvr.backends import build_backend
from pfcvr.config import PartsConfig
from pfcvr.pipeline.detectors import DETECTORS
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.pipeline.segmenters import SEGMENTERS
from pfcvr.records import PARTS, ImageRecord, PartInstance
from pfcvr.store import Workspace

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

BACKENDS = ("grounding-dino", "sam", "segment-anything", "sam3")
ENCODERS = {
    "grounding-dino": "model.backbone",
    "sam": "vision_encoder",
    "segment-anything": "image_encoder",
    "sam3": "vision_encoder",
}
BOXES = 12
CROP_SIDES = (180, 420)  # pixels, about those of VERI-Wild's crops


def weights(name: str, size: str, folder: Path) -> Path:
    """Random weights of the backend ``name`` below ``folder``."""
    from tiny_models import grounding_dino, sam, sam3

    tiny = {
        "grounding-dino": grounding_dino.make_grounding_dino,
        "sam": sam.make_sam,
        "segment-anything": sam.make_segment_anything,
        "sam3": sam3.make_sam3,
    }
    path: Path = tiny[name](folder / ("sam.pth" if name == "segment-anything" else name))
    if size == "real":
        REAL[name](path)
    return path


def real_grounding_dino(folder: Path) -> None:
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection, GroundingDinoImageProcessor

    GroundingDinoForObjectDetection(GroundingDinoConfig()).save_pretrained(folder)
    replace_image_processor(folder, GroundingDinoImageProcessor())


def real_sam(folder: Path) -> None:
    from transformers import SamConfig, SamImageProcessor, SamModel

    SamModel(SamConfig()).save_pretrained(folder)
    replace_image_processor(folder, SamImageProcessor())


def real_segment_anything(path: Path) -> None:
    import torch
    from segment_anything import sam_model_registry

    torch.save(sam_model_registry["vit_b"]().state_dict(), path)


def real_sam3(folder: Path) -> None:
    from tiny_models.sam3 import clip_tokenizer
    from transformers import Sam3Config, Sam3ImageProcessor, Sam3Model

    tokenizer = clip_tokenizer()
    config = Sam3Config()
    config.text_config.bos_token_id = tokenizer.bos_token_id
    config.text_config.eos_token_id = tokenizer.eos_token_id
    Sam3Model(config).save_pretrained(folder)
    replace_image_processor(folder, Sam3ImageProcessor())


def replace_image_processor(folder: Path, processor: Any) -> None:
    path = folder / "processor_config.json"
    whole = json.loads(path.read_text())
    whole["image_processor"] = processor.to_dict()
    whole.pop("target_size", None)
    path.write_text(json.dumps(whole, default=str))


REAL: dict[str, Callable[[Path], None]] = {
    "grounding-dino": real_grounding_dino,
    "sam": real_sam,
    "segment-anything": real_segment_anything,
    "sam3": real_sam3,
}


def make_pictures(count: int, folder: Path) -> list[Picture]:
    """JPEG crops of many shapes."""
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(count):
        width, height = (int(side) for side in rng.integers(*CROP_SIDES, 2))
        path = folder / f"{number:04d}.jpg"
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)
        record = ImageRecord(
            image_id=f"v/{number:04d}", vehicle_id="v", source="s", path=path.name, sha256="0" * 64,
            width=width, height=height,
        )  # fmt: skip
        pictures.append(Picture(record, path))
    return pictures


def boxes_on(picture: Picture) -> Found:
    rng = np.random.default_rng(1)
    height, width = picture.size
    instances = []
    for number in range(BOXES):
        x0, y0, x1, y1 = (*rng.uniform(0, 0.6, 2), *rng.uniform(0.65, 1, 2))
        box = (x0 * width, y0 * height, x1 * width, y1 * height)
        instances.append(PartInstance(part=PARTS[number % len(PARTS)], box_xyxy=box, score=0.5))
    return Found(tuple(instances))


LookAt = Callable[[Sequence[Picture]], list[Found]]


def in_this_process(name: str, options: argparse.Namespace, folder: Path) -> tuple[LookAt, Any]:
    """What looks at a batch, and its network."""
    path = str(weights(name, options.size, folder))
    common = {"device": options.device, "precision": options.precision}
    if name in DETECTORS:
        config = PartsConfig.model_validate({"detector": name, "detector_model": path, **common})
        backend = build_backend("detector", DETECTORS, name, None, config)
        return backend.detect, backend._network
    detector = "none" if name == "sam3" else "grounding-dino"
    config = PartsConfig.model_validate({"detector": detector, "segmenter_model": path, **common})
    backend = build_backend("segmenter", SEGMENTERS, name, config)
    return lambda batch: backend.segment(batch, [boxes_on(picture) for picture in batch]), backend._network


def in_its_environment(options: argparse.Namespace, folder: Path) -> LookAt:
    """What looks at a batch, by the original package."""
    command = [options.python, str(TESTS / "tiny_models" / "groundingdino_original.py"), str(folder)]
    paths = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    values = {"detector": "groundingdino", "detector_model": paths["checkpoint"], "text_encoder": paths["bert"]}
    config = PartsConfig.model_validate(values | {"python": options.python, "device": options.device})
    workspace = Workspace(folder / "work", create=True)
    detect: LookAt = build_backend("detector", DETECTORS, "groundingdino", workspace, config).detect
    return detect


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    encoded: list[int] = []
    known: dict[str, float] = {}
    if name == "groundingdino":
        look_at = in_its_environment(options, folder)
    else:
        look_at, network = in_this_process(name, options, folder)
        encoder = network.get_submodule(ENCODERS[name])
        encoder.register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0])))
        known["parameters"] = float(sum(parameter.numel() for parameter in network.parameters()))
    pictures = make_pictures(options.images + options.batch, folder)
    look_at(pictures[: options.batch])
    warm_up = sum(encoded)
    started = time.perf_counter()
    instances = 0
    for start in range(options.batch, len(pictures), options.batch):
        instances += sum(len(found.instances) for found in look_at(pictures[start : start + options.batch]))
    elapsed = time.perf_counter() - started
    if encoded:
        known["encodings_per_image"] = (sum(encoded) - warm_up) / options.images
    return {"images_per_second": options.images / elapsed, "instances_per_image": instances / options.images, **known}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["real", "tiny"], default="real")
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--python", help="interpreter with groundingdino-py, for the backend groundingdino")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if "groundingdino" in options.backends.split(",") and options.python is None:
        parser.error("groundingdino needs --python, the interpreter of an environment that has it")
    results = {}
    for name in options.backends.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(name, options, Path(folder))
    if options.json:
        print(json.dumps({"size": options.size, "device": options.device, "results": results}))
        return
    columns = ("images_per_second", "encodings_per_image", "instances_per_image", "parameters")
    print(f"{'backend':<18}" + "".join(f"{column:>22}" for column in columns))
    for name, values in results.items():
        print(
            f"{name:<18}" + "".join(f"{values[column]:>22,.3f}" if column in values else " " * 22 for column in columns)
        )


if __name__ == "__main__":
    main()
