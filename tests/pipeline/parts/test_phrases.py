"""Phrases and prompts: which tokens a phrase is, and files of phrases that are not as they should be."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfcvr.config import PartsConfig
from pfcvr.errors import UsageError
from pfcvr.pipeline.phrase_prompt import phrase_prompts
from pfcvr.pipeline.phrases import Answer, load_phrases
from pfcvr.records import PARTS

words = st.text("abcdefg", min_size=1, max_size=6)
some_phrases = st.lists(st.lists(words, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=12)


def pieces(text: str) -> list[tuple[int, int]]:
    """A tokenizer whose tokens are at most three letters, with one special token at each end."""
    spans, start = [(0, 0)], 0
    for word in text.split(" "):
        spans += [(start + at, start + min(at + 3, len(word))) for at in range(0, len(word), 3)]
        start += len(word) + 1
    return [*spans, (0, 0)]


@given(some_phrases, st.integers(16, 40))
def test_the_tokens_of_a_phrase_spell_it_and_no_prompt_is_too_long(phrases: list[str], most_tokens: int) -> None:
    prompts = phrase_prompts(phrases, pieces, most_tokens)
    assert [number for prompt in prompts for number in range(prompt.first, prompt.first + len(prompt.tokens))] == list(
        range(len(phrases))
    )
    for prompt in prompts:
        spans = pieces(prompt.text)
        assert len(spans) <= most_tokens
        assert prompt.text.endswith(" .")
        for phrase, tokens in zip(phrases[prompt.first :], prompt.tokens, strict=False):
            assert "".join(prompt.text[slice(*spans[place])] for place in tokens) == phrase.replace(" ", "")


@given(some_phrases, st.integers(16, 40))
def test_a_prompt_holds_as_many_phrases_as_fit(phrases: list[str], most_tokens: int) -> None:
    for prompt in phrase_prompts(phrases, pieces, most_tokens)[:-1]:
        following = phrases[prompt.first + len(prompt.tokens)]
        assert len(pieces(f"{prompt.text} {following} .")) > most_tokens


def test_a_phrase_longer_than_any_prompt_is_named() -> None:
    with pytest.raises(UsageError, match="the phrase 'abcdefgabcdefg' has more than 6 tokens; shorten it"):
        phrase_prompts(["abcdefgabcdefg"], pieces, 6)
    with pytest.raises(UsageError, match="the phrase '~' has no token that the model knows; use other words"):
        phrase_prompts(["~"], lambda text: [(0, 0), (0, 0)], 6)


def test_the_shipped_phrases_name_every_part_by_several_words_and_the_vehicle() -> None:
    asked = load_phrases(PartsConfig(detector="none"))
    assert {*asked.targets} == {*PARTS, "vehicle"}
    assert all(asked.targets.count(part) > 1 for part in PARTS)
    assert len(set(asked.texts)) == len(asked.texts)


def test_threshold_of_the_command_replaces_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'phrases.roof = ["roof"]\nthresholds.box = 0.2\nthresholds.instance = 0.4')
    assert load_phrases(PartsConfig(phrases=path)).thresholds.model_dump() == {
        "box": 0.2,
        "instance": 0.4,
        "mask": 0.5,
        "overlap": 0.6,
    }
    replaced = load_phrases(PartsConfig(phrases=path, threshold=0.7)).thresholds
    assert (replaced.box, replaced.instance, replaced.mask) == (0.7, 0.7, 0.5)


def test_case_and_blanks_of_a_phrase_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path, 'phrases.roof = ["  Roof   RACK "]')
    assert load_phrases(PartsConfig(phrases=path)).texts == ("roof rack",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('phrases.hood = ["hood"]', "'phrases.hood"),
        ('phrases.roof = ["roof"]\ncolour = "red"', "unknown key 'colour'; known here: name, phrases, thresholds"),
        ('phrases.roof = ["roof"]\nphrases.doors = ["ROOF"]', "the phrase 'roof' stands there twice; a phrase means"),
        ('phrases.roof = ["roof. top"]', "a phrase has no stop or question mark"),
        ("phrases.roof = []", "'phrases.roof'"),
        ("", "'phrases' is missing; add it"),
        ('phrases.roof = ["roof"]\nthresholds.box = 2', "'thresholds.box': input should be less than 1"),
        ("phrases = [", "not valid TOML"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_phrases(PartsConfig(phrases=path))
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)


def test_of_several_vehicles_the_largest_is_the_one_of_the_picture(tmp_path: Path) -> None:
    asked = load_phrases(PartsConfig(phrases=write(tmp_path, 'phrases.roof = ["roof"]\nvehicle = ["car", "van"]')))
    boxes = [(0.0, 0.0, 4.0, 4.0), (1.0, 1.0, 9.0, 9.0), (0.0, 0.0, 20.0, 20.0)]
    found = asked.found([Answer(1, boxes[0], 0.9), Answer(2, boxes[1], 0.4), Answer(0, boxes[2], 0.5)])
    assert found.vehicle == boxes[1]
    assert [(own.part, own.box_xyxy, own.score) for own in found.instances] == [("roof", boxes[2], 0.5)]
    assert asked.found([]).vehicle is None


def write(folder: Path, text: str) -> Path:
    path = folder / "phrases.toml"
    path.write_text(f'name = "own"\nversion = 3\n{text}\n')
    return path
