"""The shipped build files from import to two training steps, each weight replaced by tiny random ones of its kind."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from backends.serving import SERVER_ARGUMENTS, run_data
from tiny_models.grounding_dino import make_grounding_dino
from tiny_models.sam import make_sam, make_segment_anything
from tiny_models.sam3 import make_sam3

from pfcvr.records import Caption, ImageParts
from pfcvr.store import Workspace

pytestmark = [pytest.mark.backends, pytest.mark.timeout(900)]
EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
Weights = dict[str, str]


@pytest.fixture
def shrunk(vehicles: Path, tiny_qwen: Path, prompt: Path, vllm_python: str, tmp_path: Path) -> Callable[..., Path]:
    """Copies a build file and replaces, line by line, the source, the sizes, and the weights."""

    def shrink(name: str, identities: int, parts: Weights) -> Path:
        text = (EXAMPLES / name).read_text()
        changes = {"source": vehicles, "model": tiny_qwen, "prompt": prompt, "grid": "8x8", "recipe": "tiny"} | parts
        for key, value in changes.items():
            text, count = re.subn(rf'^{key} = ".*"$', f'{key} = "{value}"', text, flags=re.MULTILINE)
            assert count == 1, key
        text = re.sub(r"^identities = .*$", f"identities = {identities}", text, flags=re.MULTILINE)
        text = re.sub(r"^images = .*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"\n\[caption\.server_args\]\n(.+\n)+", "", text)
        server = f'python = "{vllm_python}"\nserver_args = "{" ".join(SERVER_ARGUMENTS)}"'
        text = text.replace("[caption]", f"[caption]\n{server}")
        steps = '["schedule.length=2", "schedule.warmup=1", "batch_size=4"]'
        text = text.replace("[train]", f'[train]\noverrides = {steps}\ndevice = "cpu"')
        build = tmp_path / "shrunk.build.toml"
        build.write_text(text)
        return build

    return shrink


def check_result(build: Path, result: dict[str, Any], detector: str, segmenter: str, images: int) -> None:
    steps = result["steps"]
    assert result["passed"]
    assert (steps["caption"]["kept"], steps["caption"]["rejected"]) == (images, 0)
    assert (steps["parts"]["kept"], steps["parts"]["rejected"]) == (images, 0)
    workspace = Workspace(Path(result["workspace"]))
    assert all(record.origin.captioner == "vllm" for record in workspace.records("caption", Caption))
    origins = {record.origin.detector for record in workspace.records("parts", ImageParts)}
    assert origins == {detector}
    assert {record.origin.segmenter for record in workspace.records("parts", ImageParts)} == {segmenter}
    instances = [one for record in workspace.records("parts", ImageParts) for one in record.instances]
    assert instances
    assert all(instance.mask is not None for instance in instances)
    (exported,) = build.parent.glob("*-dataset")
    loaded = datasets.load_dataset(str(exported))
    assert sum(len(split) for split in loaded.values()) == images
    row = loaded["train"][0]
    assert row["part_texts"]["wheels"].endswith("spokes")
    assert result["train"]["steps"] == 2


def test_captions_by_vllm_and_parts_by_sam3_end_in_a_trained_model(shrunk: Callable[..., Path], tmp_path: Path) -> None:
    sam3 = make_sam3(tmp_path / "sam3")
    build = shrunk("t2i-verw.build.toml", 20, {"segmenter_model": str(sam3)})
    check_result(build, run_data("run", build), "none", "sam3", 40)


def test_captions_by_vllm_and_parts_by_grounding_dino_and_sam_end_in_a_trained_model(
    shrunk: Callable[..., Path], tmp_path: Path
) -> None:
    dino, sam = make_grounding_dino(tmp_path / "dino"), make_sam(tmp_path / "sam")
    weights = {"detector_model": str(dino), "segmenter_model": str(sam)}
    build = shrunk("t2i-verw-boxes.build.toml", 20, weights)
    check_result(build, run_data("run", build), "grounding-dino", "sam", 40)


def test_captions_by_vllm_and_parts_by_the_original_packages_end_in_a_trained_model(
    shrunk: Callable[..., Path], original_groundingdino: Weights, groundingdino_python: str, tmp_path: Path
) -> None:
    weights = {
        "detector_model": original_groundingdino["checkpoint"],
        "text_encoder": original_groundingdino["bert"],
        "python": groundingdino_python,
        "segmenter_model": str(make_segment_anything(tmp_path / "sam.pth")),
    }
    build = shrunk("t2i-verw-original.build.toml", 4, weights)
    # Of the package's 900 queries, random weights let nearly all pass the usual threshold.
    build.write_text(build.read_text().replace("[parts]", "[parts]\nthreshold = 0.93"))
    check_result(build, run_data("run", build), "groundingdino", "segment-anything", 8)
