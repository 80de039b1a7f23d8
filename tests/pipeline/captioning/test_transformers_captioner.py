"""Captions by a model in this process: a tiny random Qwen3-VL through its real processor, template and generation."""

import base64
import json
import math
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_models.qwen3_vl import make_qwen3_vl
from transformers import AutoModelForImageTextToText, AutoProcessor

from pfcvr.config import CaptionConfig, parse
from pfcvr.errors import BackendError, CheckpointError, StageStopped, UsageError
from pfcvr.pipeline import caption
from pfcvr.pipeline.captioners import transformers_model
from pfcvr.pipeline.captioners.chat_request import Drawing, caption_body
from pfcvr.pipeline.captioners.prompt import load_prompt
from pfcvr.pipeline.captioners.transformers_model import LocalModel
from pfcvr.pipeline.inference import Inference
from pfcvr.records import Caption, Rejected
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)
SMALL_PICTURES = {"min_pixels": 64 * 64, "max_pixels": 128 * 128}
PROMPT = """
name = "short"
version = 1
min_words = 5
max_words = 60
max_tokens = 12
system = "Describe the vehicle."
user = "Now."
"""
CPU = CaptionConfig(captioner="transformers", device="cpu")
SENTENCE = "A white sedan with dark windows, silver wheels with five spokes and a chrome grille above the bumper."
SCHEMA = """
[json_schema]
type = "object"
additionalProperties = false
required = ["color", "caption"]
[json_schema.properties]
color = { type = "string" }
caption = { type = "string" }
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "short.toml"
    path.write_text(PROMPT)
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> LocalModel:
    return LocalModel(weights, Inference(CPU), "sha256:0")


def picture(color: str = "red", size: tuple[int, int] = (96, 64)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, color).save(file, "JPEG")
    return file.getvalue()


def body(prompt_file: Path, jpeg: bytes, seed: int = 0, **sampling: float) -> bytes:
    return caption_body("tiny", load_prompt(str(prompt_file)), Drawing(sampling, 12, seed), jpeg)


def config(weights: Path, prompt_file: Path, **changes: Any) -> CaptionConfig:
    values = {"captioner": "transformers", "model": str(weights), "prompt": str(prompt_file), "device": "cpu"}
    return CaptionConfig.model_validate(values | {"image": SMALL_PICTURES} | changes)


def test_a_greedy_answer_is_that_of_the_library_called_directly(
    model: LocalModel, weights: Path, prompt_file: Path
) -> None:
    jpeg = picture()
    reply = model.ask(body(prompt_file, jpeg, temperature=0.0)).reply
    processor = AutoProcessor.from_pretrained(weights)
    network = AutoModelForImageTextToText.from_pretrained(weights).eval()
    text = (
        "<|im_start|>system\nDescribe the vehicle.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Now.<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(text=[text], images=[Image.open(BytesIO(jpeg))], return_tensors="pt")
    ids = inputs["input_ids"]
    assert int((ids == network.config.image_token_id).sum()) == 3 * 2
    with torch.inference_mode():
        output = network.generate(**inputs, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert reply.text == processor.decode(output, skip_special_tokens=True)
    assert reply.prompt_tokens == ids.shape[1]
    assert reply.completion_tokens == len(output)
    assert reply.finish_reason == ("stop" if len(output) < 12 else "length")
    assert reply.model == "sha256:0"


def test_an_answer_depends_on_seed_and_picture_and_leaves_the_world_s_chance_alone(
    model: LocalModel, prompt_file: Path
) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = model.ask(body(prompt_file, picture(), seed=1, temperature=1.0)).reply
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert model.ask(body(prompt_file, picture(), seed=1, temperature=1.0)).reply == one
    assert model.ask(body(prompt_file, picture(), seed=2, temperature=1.0)).reply.text != one.text
    assert model.ask(body(prompt_file, picture("blue"), seed=1, temperature=1.0)).reply.text != one.text
    larger = model.ask(body(prompt_file, picture(size=(96, 128)), seed=1, temperature=1.0)).reply
    assert larger.prompt_tokens is not None
    assert one.prompt_tokens is not None
    assert larger.prompt_tokens - one.prompt_tokens == 3 * 4 - 3 * 2


def test_penalties_are_openai_s() -> None:
    prompt, answer = [3, 3, 4], [1, 2, 1, 1]
    scores = torch.tensor([[0.5, -1.0, 2.0, 0.25, 0.0]])
    expected = [
        score - 0.5 * (1 if token in answer else 0) - 0.125 * answer.count(token)
        for token, score in enumerate(scores[0].tolist())
    ]
    changed = transformers_model._Penalties(len(prompt), presence=0.5, frequency=0.125)(
        torch.tensor([prompt + answer]), scores
    )
    assert all(map(math.isclose, changed[0].tolist(), expected))


def test_a_strong_penalty_forbids_what_was_written(model: LocalModel, prompt_file: Path) -> None:
    free = model.ask(body(prompt_file, picture(), temperature=0.0)).reply.text
    bound = model.ask(body(prompt_file, picture(), temperature=0.0, frequency_penalty=2.0)).reply.text
    assert len(set(bound.split())) >= len(set(free.split()))
    assert bound != free


def test_stopping_ends_the_answer_under_way_and_all_to_come(weights: Path, prompt_file: Path) -> None:
    own = LocalModel(weights, Inference(CPU), "sha256:0")
    started = threading.Event()
    own._network.model.visual.register_forward_pre_hook(lambda *_: started.set())
    endless = json.loads(body(prompt_file, picture(), temperature=1.0)) | {"max_tokens": 7000}
    own._ends = own._network.generation_config.eos_token_id = [10**6]
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            own.ask(json.dumps(endless).encode())
        except StageStopped as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert started.wait(30)
    own.stop(StageStopped("the run was ended"))
    thread.join(30)
    assert not thread.is_alive()
    with pytest.raises(StageStopped, match="the run was ended"):
        own.ask(body(prompt_file, picture()))
    assert [str(error) for error in errors] == ["the run was ended"]


def test_the_captioner_of_random_weights_rejects_every_image_with_a_reason(
    small: Any, weights: Path, prompt_file: Path
) -> None:
    small.add_images({"00001": 2, "00002": 1})
    with pytest.raises(Exception, match="stage 'caption' kept nothing"):
        caption.run(small.workspace, config(weights, prompt_file), QUIET)
    rows = [Rejected.model_validate_json(line) for line in rejected_lines(small)]
    assert len(rows) == 3
    assert all(row.attempts == 3 and row.detail for row in rows)


def test_a_good_answer_between_chatter_becomes_a_sealed_caption(
    small: Any, weights: Path, prompt_file: Path, speaking: "Speaking"
) -> None:
    prompt_file.write_text(PROMPT.replace("max_tokens = 12", "max_tokens = 200") + SCHEMA)
    speaking.words = f"Here you are:\n```json\n{json.dumps({'color': 'white', 'caption': SENTENCE})}\n```"
    small.add_images({"00001": 2, "00002": 1})
    settings = config(weights, prompt_file)
    assert caption.run(small.workspace, settings, QUIET).kept == 3
    records = list(small.workspace.records("caption", Caption))
    origin = records[0].origin
    assert [record.texts for record in records] == [(SENTENCE,)] * 3
    assert records[0].attributes == {"color": "white"}
    assert (origin.captioner, origin.model, origin.prompt) == ("transformers", weights.name, "short-1")
    assert origin.revision is not None
    assert origin.revision.startswith("sha256:")
    assert (origin.finish_reason, origin.completion_tokens) == ("stop", speaking.tokens)
    assert speaking.asked == 3
    assert caption.run(small.workspace, settings, QUIET).already_done


def test_an_answer_without_an_end_is_cut_off(
    small: Any, weights: Path, prompt_file: Path, speaking: "Speaking"
) -> None:
    speaking.words, speaking.ends = SENTENCE, False
    small.add_images({"00001": 1})
    with pytest.raises(Exception, match="1 x truncated"):
        caption.run(small.workspace, config(weights, prompt_file), QUIET)


def test_a_gpu_without_memory_stops_the_run_and_leaves_the_rows_pending(
    small: Any, weights: Path, prompt_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation.")

    monkeypatch.setattr("transformers.Qwen3VLForConditionalGeneration.generate", generate)
    small.add_images({"00001": 2})
    with pytest.raises(StageStopped, match=r"too little memory for it \(CUDA out of memory.*; use a smaller model"):
        caption.run(small.workspace, config(weights, prompt_file), QUIET)
    assert rejected_lines(small) == []


def test_a_model_of_text_alone_is_refused(small: Any, tmp_path: Path, prompt_file: Path) -> None:
    folder = make_qwen3_vl(tmp_path / "model")
    for path in folder.glob("*preprocessor_config.json"):
        path.unlink()
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    small.add_images({"00001": 1})
    with pytest.raises(CheckpointError, match="its processor takes no pictures or has no chat template"):
        caption.run(small.workspace, config(folder, prompt_file), QUIET)


def test_other_weights_under_the_same_name_are_other_inputs(
    small: Any, tmp_path: Path, prompt_file: Path, speaking: "Speaking"
) -> None:
    speaking.words = SENTENCE
    small.add_images({"00001": 1})
    folder = make_qwen3_vl(tmp_path / "model", seed=1)
    caption.run(small.workspace, config(folder, prompt_file), QUIET)
    make_qwen3_vl(tmp_path / "model", seed=2)
    with pytest.raises(Exception, match=r"other inputs: .*weights_sha256"):
        caption.run(small.workspace, config(folder, prompt_file), QUIET)
    caption.run(small.workspace, config(folder, prompt_file), RunOptions(quiet=True, overwrite=True))
    assert speaking.asked == 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": None}, UsageError, "captioner 'transformers' needs a model; give --model"),
        ({"base_url": "http://127.0.0.1:1/v1"}, UsageError, "asks no server"),
        ({"model": "./nowhere"}, CheckpointError, "nowhere: no folder with a Transformers model"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(
    small: Any, weights: Path, prompt_file: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    small.add_images({"00001": 1})
    with pytest.raises(error, match=message):
        caption.run(small.workspace, config(weights, prompt_file, **changes), QUIET)


@pytest.mark.parametrize("setting", [{"device": "cuda"}, {"precision": "bfloat16"}])
def test_where_to_compute_is_no_matter_of_other_captioners(setting: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="this is for captioner 'transformers' alone; leave it out"):
        parse(CaptionConfig, {"captioner": "openai"} | setting, "here")
    assert parse(CaptionConfig, {"captioner": "transformers"} | setting, "here")


def test_a_package_that_is_not_installed_is_named_with_the_line_to_type(
    small: Any, weights: Path, prompt_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.add_images({"00001": 1})
    monkeypatch.setattr("pfcvr.pipeline.captioners.transformers_.PACKAGES", ("torch", "torch_that_nobody_has"))
    with pytest.raises(
        BackendError, match=r"'torch_that_nobody_has'; in the clone run: pip install -e '\.\[captions\]'"
    ):
        caption.run(small.workspace, config(weights, prompt_file), QUIET)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "no processor"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no vocabulary of a tokenizer there"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "cannot be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be loaded|no config.json"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "clip_text_model"}'),
            "cannot be loaded|no processor",
        ),
    ],
    ids=["no processor", "no tokenizer", "no template", "torn weights", "no config", "another kind of model"],
)
def test_a_folder_that_is_no_such_model_ends_the_run_in_one_sentence(
    small: Any, tmp_path: Path, prompt_file: Path, harm: Any, message: str
) -> None:
    folder = make_qwen3_vl(tmp_path / "model")
    harm(folder)
    small.add_images({"00001": 1})
    with pytest.raises(CheckpointError, match=message) as caught:
        caption.run(small.workspace, config(folder, prompt_file), QUIET)
    assert str(folder) in str(caught.value)
    assert not rejected_lines(small)


class Speaking:
    """A model whose next tokens are ``words``; processor, template, decoding and all around them stay real."""

    def __init__(self) -> None:
        self.words, self.ends, self.asked, self.tokens = "", True, 0, 0

    def generate(self, network: Any, **inputs: Any) -> torch.Tensor:
        assert inputs["pixel_values"].numel()
        self.asked += 1
        folder = network.config._name_or_path
        ids = AutoProcessor.from_pretrained(folder).tokenizer(self.words, return_tensors="pt")["input_ids"]
        if self.ends:
            ids = torch.cat([ids, torch.tensor([[network.generation_config.eos_token_id[0]]])], dim=1)
        self.tokens = ids.shape[1]
        return torch.cat([inputs["input_ids"], ids], dim=1)


@pytest.fixture
def speaking(monkeypatch: pytest.MonkeyPatch) -> Speaking:
    voice = Speaking()
    monkeypatch.setattr(
        "transformers.Qwen3VLForConditionalGeneration.generate",
        lambda network, **inputs: voice.generate(network, **inputs),
    )
    return voice


def rejected_lines(small: Any) -> list[str]:
    path = small.workspace.folder("caption") / "rejected-running.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_pictures_arrive_from_data_urls_as_they_were_sent() -> None:
    noise = Image.effect_noise((64, 32), 40).convert("RGB")
    file = BytesIO()
    noise.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    (item,) = transformers_model._content([{"type": "image_url", "image_url": {"url": url}}])
    assert item["image"].tobytes() == noise.tobytes()
