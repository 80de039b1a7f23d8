"""The shipped build files: each is understood as a whole, and its weights are one line each."""

import re
from pathlib import Path

import pytest

from pfcvr.cli import data_app, run
from pfcvr.errors import UsageError
from pfcvr.model.recipes import load_recipe
from pfcvr.pipeline.build import load_build
from pfcvr.pipeline.captioners.prompt import load_prompt

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.build.toml"))
WEIGHTS = ("model", "detector_model", "segmenter_model", "text_encoder", "python")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_shipped_build_file_names_what_there_is(path: Path) -> None:
    build = load_build(path)
    assert build.caption is not None
    assert build.train is not None
    assert build.export is not None
    assert load_prompt(build.caption.prompt).json_schema is not None
    assert load_recipe(build.train.recipe, ()).model.image_size == (384, 384)
    assert build.train.data == str(build.export.out)
    assert build.workspace.parent == path.parent
    assert path.name in path.read_text()


def test_the_pairs_that_belong_together_are_all_shown() -> None:
    pairs = {(build.parts.detector, build.parts.segmenter) for build in map(load_build, EXAMPLES) if build.parts}
    assert pairs == {("none", "sam3"), ("grounding-dino", "sam"), ("groundingdino", "segment-anything")}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_of_the_weights_is_one_line(path: Path) -> None:
    named = re.findall(rf"^({'|'.join(WEIGHTS)}) = \"[^\"]+\"$", path.read_text(), flags=re.MULTILINE)
    assert len(named) == len(set(named))
    assert {"model", "segmenter_model"} <= set(named)


def test_names_of_models_are_paths_where_they_look_like_paths(tmp_path: Path) -> None:
    file = tmp_path / "build.toml"
    file.write_text(
        'workspace = "work"\n[import]\nsource = "src"\n'
        '[caption]\ncaptioner = "vllm"\nmodel = "./qwen"\nprompt = "vehicle-json"\n'
        '[parts]\ndetector_model = "IDEA-Research/grounding-dino-base"\nsegmenter_model = "../sam"\n'
    )
    build = load_build(file)
    assert build.caption is not None
    assert build.parts is not None
    assert (build.caption.model, build.caption.prompt) == (str(tmp_path / "qwen"), "vehicle-json")
    assert build.parts.detector_model == "IDEA-Research/grounding-dino-base"
    assert Path(build.parts.segmenter_model or "").resolve() == tmp_path.parent / "sam"


def test_a_training_without_an_export_needs_its_data(tmp_path: Path) -> None:
    file = tmp_path / "build.toml"
    file.write_text('workspace = "work"\n[import]\nsource = "src"\n[train]\nout = "run"\n')
    with pytest.raises(UsageError, match=r"'train\.data' is missing; add it"):
        load_build(file)


def test_a_mistake_in_the_training_is_told_before_the_first_stage(tmp_path: Path) -> None:
    file = tmp_path / "build.toml"
    file.write_text(
        'workspace = "work"\n[import]\nsource = "src"\n[export]\nout = "out"\n'
        '[train]\nout = "run"\noverrides = ["schedule.lenght=2"]\n'
    )
    assert run(data_app, "pfcvr-data", ["run", str(file)]) == 2
    assert not (tmp_path / "work").exists()
