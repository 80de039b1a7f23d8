"""Prompt files: the two that are shipped, and one sentence for everything that can be wrong with a user's own."""

import hashlib
import tomllib
from pathlib import Path

import pytest

from pfcvr.errors import UsageError
from pfcvr.pipeline.captioners.prompt import SHIPPED, load_prompt
from pfcvr.pipeline.synth.attributes import VERI_WILD_TYPE, Paint
from pfcvr.records import PARTS

SHIPPED_FOLDER = Path(__file__).parents[3] / "pfcvr" / "prompts"
OWN = """
name = "own"
version = 2
min_words = 5
max_words = 20
max_tokens = 64
system = "Describe the vehicle."
user = "Now."
[sampling]
temperature = 0.5
top_k = 20
"""
SCHEMA = """
[json_schema]
type = "object"
additionalProperties = false
required = ["caption"]
[json_schema.properties.caption]
type = "string"
"""


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_prompt_names_what_the_paper_asks_for_and_hashes_its_file(name: str) -> None:
    prompt = load_prompt(name)
    assert prompt.label == f"{name}-1"
    assert prompt.sha256 == hashlib.sha256((SHIPPED_FOLDER / f"{name}.toml").read_bytes()).hexdigest()
    for word in ("grille", "headlights", "wheels", "roof", "windows", "bumper"):
        assert word in prompt.system
    assert "license plate" in prompt.system
    # The judge tells a missing picture by the tokens that are left after the words of the instruction.
    assert len(prompt.system.split()) < 400


def test_the_structured_prompt_asks_for_a_phrase_a_part_and_knows_the_words_of_veri_wild() -> None:
    schema = load_prompt("vehicle-json").json_schema
    assert schema is not None
    assert list(schema["properties"]) == ["color", "type", "viewpoint", "parts", "caption"]
    assert tuple(schema["properties"]["parts"]["properties"]) == PARTS
    assert set(schema["properties"]["color"]["enum"]) == {*Paint.__args__, "unknown"}
    assert set(VERI_WILD_TYPE.values()) < set(schema["properties"]["type"]["enum"])
    assert load_prompt("vehicle-text").json_schema is None


def test_a_prompt_of_the_user_is_read_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN + SCHEMA)
    prompt = load_prompt(str(path))
    assert (prompt.label, prompt.system, prompt.language) == ("own-2", "Describe the vehicle.", "en")
    assert prompt.sampling == {"temperature": 0.5, "top_k": 20}
    assert prompt.json_schema == tomllib.loads(SCHEMA)["json_schema"]
    path.write_text(OWN + SCHEMA + "\n")
    assert load_prompt(str(path)).sha256 != prompt.sha256


def test_an_unknown_name_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match=r"unknown prompt 'vehicle'; choose one of: vehicle-json, vehicle-text, or"):
        load_prompt("vehicle")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("user =", "colour = 1\nuser =", "unknown key 'colour'"),
        ("top_k = 20", "top_q = 20", "unknown key 'sampling.top_q'"),
        ('user = "Now."', "", "'user' is missing"),
        ("min_words = 5", "min_words = 50", "min_words 50 is more than max_words 20"),
        ("temperature = 0.5", "temperature = 9", "sampling.temperature"),
        ("version = 2", "version = ", "not valid TOML"),
        ("version = 2", f"version = {'[' * 5000}", "nested too deeply"),
        ('type = "string"', 'type = "array"', "json_schema.properties.caption.type is 'array' and has to be"),
        ('type = "string"', 'type = "string"\nformat = "date"', "unknown keyword 'format'"),
        ('type = "string"', 'type = "string"\nmaxLength = -1', "maxLength has to be a whole number from 0"),
        ('type = "string"', 'type = "string"\npattern = "("', "pattern is no regular expression"),
        ('type = "string"', 'type = "string"\npattern = "(?=A)"', "no look-around or back references"),
        ('type = "string"', "type = \"string\"\npattern = '(a)\\1'", "no look-around or back references"),
        ('type = "string"', f'type = "string"\npattern = "{"(" * 5000}"', "pattern is no regular expression"),
        ('type = "string"', 'type = "string"\npattern = 1', "pattern has to be a text"),
        ('type = "string"', 'type = "string"\nenum = [1]', "enum has to list texts"),
        ('type = "string"', 'type = "string"\nconst = 1', "const has to be a text"),
        ("additionalProperties = false", "additionalProperties = true", "needs additionalProperties = false"),
        ('required = ["caption"]', 'required = ["other"]', "required has to list names of its properties"),
        ('required = ["caption"]', "required = []", "no required property 'caption'"),
        ("properties.caption]", "properties.sentence]", "required has to list names"),
        (SCHEMA, f'{SCHEMA}[json_schema.properties.make]\ntype = "string"', "asks for 'make', which no record has"),
        (SCHEMA, f'{SCHEMA}[json_schema.properties.parts]\ntype = "string"', "parts cannot be of type 'string'"),
        (SCHEMA, f'{SCHEMA}[json_schema.properties]\nparts = "roof"', "json_schema"),
        (SCHEMA, "\n[json_schema]\ntype = 'object'\nadditionalProperties = false", "json_schema has no properties"),
    ],
)
def test_everything_wrong_with_a_prompt_file_is_said_in_one_sentence(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "own.toml"
    path.write_text((OWN + SCHEMA).replace(old, new))
    with pytest.raises(UsageError) as caught:
        load_prompt(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 250, "the file is repeated in the sentence"


def test_a_part_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    parts = '[json_schema.properties.parts]\ntype = "object"\nadditionalProperties = false\n'
    path.write_text(f'{OWN}{SCHEMA}{parts}[json_schema.properties.parts.properties.engine]\ntype = "string"')
    with pytest.raises(UsageError, match=r"asks for 'engine'.*windows, wheels, doors, mirrors, lights, roof"):
        load_prompt(str(path))


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.toml: there is no such"):
        load_prompt(str(tmp_path / "gone.toml"))
