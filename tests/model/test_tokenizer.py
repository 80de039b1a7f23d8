"""Captions become fixed rows of ids as CLIP's own tokenizer makes them, and words are masked as IRRA masks them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pfcvr.config import ModelConfig
from pfcvr.errors import CheckpointError
from pfcvr.model.batch import IGNORED_LABEL
from pfcvr.model.tokenizer import (
    CaptionTokenizer,
    caption_tokenizer,
    clip_tokenizer,
    train_caption_tokenizer,
)

CAPTIONS = [
    "A white SUV with roof rails &amp; dark rear windows; it's parked.",
    "  Two-tone   3-door 2019 hatchback, café sign!  ",
    "",
]


@pytest.fixture(scope="module")
def clip() -> CaptionTokenizer:
    return clip_tokenizer(77)


@pytest.fixture(scope="module")
def trained() -> CaptionTokenizer:
    return train_caption_tokenizer(CAPTIONS * 3, 700, 24)


def test_clip_ids_are_those_of_the_reference_tokenizer(clip: CaptionTokenizer) -> None:
    program = (
        "import json, sys; from open_clip.tokenizer import SimpleTokenizer; "
        "print(json.dumps(SimpleTokenizer()(json.loads(sys.argv[1])).tolist()))"
    )
    texts = [*CAPTIONS, "very long " * 60]
    run = subprocess.run([sys.executable, "-c", program, json.dumps(texts)], capture_output=True, text=True, check=True)
    assert clip.encode(texts).ids.tolist() == json.loads(run.stdout)


def test_clip_vocabulary_keeps_its_size_and_has_irras_mask_token(clip: CaptionTokenizer) -> None:
    assert (clip.vocabulary_size, clip.mask_id, clip.start_id, clip.end_id) == (49408, 49405, 49406, 49407)
    # The vocabulary's last word gave way to the mask token; it is spelled in pieces now.
    ids = clip.encode(["jekyll"]).ids[0]
    assert clip.mask_id not in ids
    assert clip.decode(ids) == "jekyll"


@pytest.mark.parametrize(
    ("part", "token"),
    [("windows", 5437), ("lights", 3073), ("wheels", 8025), ("mirrors", 21823), ("roof", 6449), ("doors", 4228)],
)
def test_part_names_are_the_two_tokens_that_clip_has_for_them(clip: CaptionTokenizer, part: str, token: int) -> None:
    assert clip.encode([f"Car {part}"]).ids[0, :5].tolist() == [49406, 1615, token, 49407, 0]


def test_a_long_caption_is_cut_and_still_ends(clip: CaptionTokenizer) -> None:
    encoded = clip.encode(["car", "car " * 75, "car " * 76])
    assert encoded.truncated.tolist() == [False, False, True]
    assert encoded.ids.shape == (3, 77)
    assert (encoded.ids[2] == encoded.ids[1]).all()
    assert encoded.ids[:, 0].eq(clip.start_id).all()
    assert encoded.ids[1:, -1].eq(clip.end_id).all()
    assert encoded.ids[0, 3:].eq(clip.pad_id).all()


@pytest.mark.parametrize("kind", ["clip", "trained"])
def test_text_survives_the_way_to_ids_and_back(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    assert tokenizer.decode(tokenizer.encode(["Red  café &amp; CAR"]).ids[0]) == "red café & car"


@pytest.mark.parametrize("kind", ["clip", "trained"])
def test_a_caption_that_spells_a_special_token_out_does_not_end_there(
    kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: CaptionTokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode(["a <|endoftext|> car <|mask|>"]).ids[0].tolist()
    assert ids.count(tokenizer.start_id) == ids.count(tokenizer.end_id) == 1
    assert tokenizer.mask_id not in ids
    assert "car" in tokenizer.decode(tokenizer.encode(["a <|endoftext|> car <|mask|>"]).ids[0])


def test_a_trained_vocabulary_has_whole_words_and_letters_for_all_others(trained: CaptionTokenizer) -> None:
    ids = trained.encode(["roof rails", "Ωmega"]).ids
    assert (ids[0] == trained.end_id).nonzero()[0] == 3
    assert trained.decode(ids[1]) == "ωmega"
    assert int(ids.max()) < trained.vocabulary_size <= 700


def test_training_a_vocabulary_twice_gives_the_same_one() -> None:
    program = (
        "import hashlib, random; from pfcvr.model.tokenizer import train_caption_tokenizer as train; "
        "words = [''.join(random.Random(i).choices('abcdefgh', k=2 + i % 6)) for i in range(200)]; "
        "texts = [' '.join(random.Random(i).choices(words, k=25)) for i in range(100)]; "
        "print(hashlib.sha256(train(texts, 800).tokenizer.to_str().encode()).hexdigest())"
    )
    runs = {subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout for _ in range(3)}
    assert len(runs) == 1


@pytest.mark.parametrize("kind", ["clip", "trained"])
def test_a_saved_tokenizer_comes_back_the_same_and_serves_transformers(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = request.getfixturevalue(kind)
    tokenizer.save(tmp_path)
    loaded = CaptionTokenizer.load(tmp_path, tokenizer.length)
    assert torch.equal(loaded.encode(CAPTIONS).ids, tokenizer.encode(CAPTIONS).ids)
    for name in ("vocabulary_size", "start_id", "end_id", "mask_id", "pad_id"):
        assert getattr(loaded, name) == getattr(tokenizer, name)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for row, ours in zip(theirs(CAPTIONS[1:])["input_ids"], tokenizer.encode(CAPTIONS[1:]).ids, strict=True):
        assert row == ours[: len(row)].tolist()
        assert row[-1] == tokenizer.end_id
    assert theirs.mask_token_id == tokenizer.mask_id


def test_the_two_file_form_of_clip_checkpoints_is_read(tmp_path: Path) -> None:
    letters = ["c", "a", "r", "c</w>", "a</w>", "r</w>"]
    entries = [*letters, "ca", "car</w>", "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({entry: place for place, entry in enumerate(entries)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\nca r</w>\n")
    tokenizer = CaptionTokenizer.load(tmp_path, 6)
    assert tokenizer.encode(["Car car"]).ids.tolist() == [[8, 7, 7, 9, 0, 0]]
    assert (tokenizer.mask_id, tokenizer.vocabulary_size) == (10, 11)


def test_the_settings_choose_the_vocabulary(trained: CaptionTokenizer, tmp_path: Path) -> None:
    assert caption_tokenizer(ModelConfig(text_length=30), CAPTIONS).vocabulary_size == 49408
    small = ModelConfig(vocabulary="captions", vocabulary_size=700, text_length=24)
    assert torch.equal(caption_tokenizer(small, CAPTIONS * 3).encode(CAPTIONS).ids, trained.encode(CAPTIONS).ids)
    trained.save(tmp_path)
    of_backbone = ModelConfig(backbone=str(tmp_path), text_length=24)
    assert caption_tokenizer(of_backbone, []).vocabulary_size == trained.vocabulary_size


@pytest.mark.parametrize(
    ("vocabulary", "merges", "sentence"),
    [
        ('{"c": 0, "a": 1, "ca": 2}', b"c a t\n", "merges.txt: expected two symbols on each line"),
        ('{"c": 0, "a": 1, "ca": 2}', b"ca\n", "merges.txt: expected two symbols on each line"),
        ('{"c": 0, "a": 1, "ca": 2}', b"\xff\xfe\n", "merges.txt: expected two symbols on each line"),
        ('{"c": 0, "a": 1}', b"c a\n", "the vocabulary lacks what the merge ('c', 'a') makes"),
        ('{"c": 0, "ca": 1}', b"c a\n", "not a tokenizer description (Token `a` out of vocabulary"),
        ('{"c": "first"}', b"", "not a tokenizer description"),
        ('{"c": -1}', b"", "not a tokenizer description"),
    ],
)
def test_two_files_that_make_no_tokenizer_are_refused_with_a_sentence(
    vocabulary: str, merges: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "vocab.json").write_text(vocabulary)
    (tmp_path / "merges.txt").write_bytes(merges)
    with pytest.raises(CheckpointError) as refusal:
        CaptionTokenizer.load(tmp_path, 24)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("other.txt", "", "no tokenizer.json, nor vocab.json with merges.txt; give the folder of a CLIP tokenizer"),
        ("tokenizer.json", "{", "tokenizer.json: not JSON"),
        ("tokenizer.json", "[]", "tokenizer.json: expected a JSON object, found list; copy the file again"),
        ("tokenizer.json", "{}", "not a tokenizer description"),
        ("tokenizer.json", '{"model": null}', "not a tokenizer description"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": [1], "merges": []}}', "not a tokenizer description"),
        (
            "tokenizer.json",
            '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}',
            "(the vocabulary lacks what the merge 'a b' makes); give the folder of a CLIP tokenizer",
        ),
        (
            "tokenizer.json",
            '{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}',
            "the tokenizer has no token <|startoftext|>, as CLIP's has; give the folder of a CLIP tokenizer",
        ),
    ],
)
def test_what_is_no_clip_tokenizer_is_refused_with_a_sentence(
    name: str, content: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError) as refusal:
        CaptionTokenizer.load(tmp_path, 24)
    assert sentence in str(refusal.value)


def test_words_are_masked_as_often_and_in_the_way_the_method_says(clip: CaptionTokenizer) -> None:
    ids = clip.encode(["white suv roof rails dark rear windows " * 10] * 400).ids
    masked, labels = clip.mask_words(ids, 0.15, torch.Generator().manual_seed(0))
    chosen = labels != IGNORED_LABEL
    words = (ids > 0) & (ids < 49405)
    assert not (chosen & ~words).any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert float(chosen.sum() / words.sum()) == pytest.approx(0.15, abs=0.01)
    outcome = masked[chosen]
    assert float((outcome == clip.mask_id).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float((outcome == ids[chosen]).float().mean()) == pytest.approx(0.1, abs=0.02)
    others = outcome[(outcome != clip.mask_id) & (outcome != ids[chosen])]
    assert ((others > 0) & (others < 49405)).all()
    assert len(others.unique()) > 0.8 * len(others)


def test_every_caption_with_words_has_a_masked_one_and_an_empty_one_has_none(trained: CaptionTokenizer) -> None:
    ids = trained.encode(["roof", "dark windows", ""] * 50).ids
    masked, labels = trained.mask_words(ids, 1e-6, torch.Generator().manual_seed(0))
    counts = (labels != IGNORED_LABEL).sum(dim=1).view(50, 3)
    assert counts.tolist() == [[1, 1, 0]] * 50
    assert (labels[:, 1] != IGNORED_LABEL).view(50, 3).tolist() == [[True, True, False]] * 50
    assert torch.equal(masked[2::3], ids[2::3])
    assert (masked[labels != IGNORED_LABEL] == trained.mask_id).all()


def test_the_same_generator_masks_the_same_words_in_rows_and_in_batches(trained: CaptionTokenizer) -> None:
    row = trained.encode(CAPTIONS[:1]).ids[0]
    first = trained.mask_words(row, 0.3, torch.Generator().manual_seed(7))
    again = trained.mask_words(row, 0.3, torch.Generator().manual_seed(7))
    batch = trained.mask_words(row[None], 0.3, torch.Generator().manual_seed(7))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[0], batch[0][0])
