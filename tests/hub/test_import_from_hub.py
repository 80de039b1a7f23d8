"""A data set is imported from the Hub with where it came from: repository, commit, and the terms of its card."""

import json
from pathlib import Path
from typing import Any

import pytest
from hub.conftest import Program, data
from hub.hub_repositories import OWNER_TOKEN
from hub.loopback_hub import LoopbackHub

FOREIGN_CARD = """---
license: {licence}
license_name: lab-terms
license_link: TERMS.md
extra_gated_prompt: |
  You will not
  sell <b>it</b>.
---
# Vehicles
"""


def published(program: Program, workspace: Path, name: str) -> str:
    """Push ``workspace`` as ``name``; the commit."""
    commit: str = program("pfcvr-data", "push", "-w", workspace, name).result["published"]["commit"]
    return commit


def source_of(workspace: Path) -> dict[str, Any]:
    manifest = json.loads((workspace / "import" / "manifest.json").read_text())
    (source,) = manifest["notes"]["sources"]
    found: dict[str, Any] = source
    return found


def taken_over(program: Program, name: str, workspace: Path) -> Path:
    """Every stage of a new workspace, from the Hub."""
    assert program("pfcvr-data", "import", name, "--format", "pfcvr", "-w", workspace).result["kept"] == 18
    data("caption", "-w", workspace, "--captioner", "import")
    data("parts", "-w", workspace, "--grid", "4x4")
    data("split", "-w", workspace, "--from-source")
    return workspace


@pytest.fixture
def foreign(program: Program, hub: LoopbackHub, open_set: Path) -> Any:
    """A repository with the rows of a data set, and no manifest of ours."""
    published(program, open_set, "lab/foreign")
    repository = hub.repository("lab/foreign")
    files = {name: file for name, file in repository.files.items() if name not in ("pfcvr.json", "README.md")}
    repository.commit(files, "by hand")
    return repository


def test_repository_commit_and_terms_are_kept_and_reach_the_cards_of_what_is_made_of_it(
    program: Program, hub: LoopbackHub, open_set: Path, tmp_path: Path
) -> None:
    commit = published(program, open_set, "lab/first")
    workspace = taken_over(program, "lab/first", tmp_path / "again")
    source, original = source_of(workspace), source_of(open_set)
    assert source["taken_from"] == [{"repository": "lab/first", "commit": commit, "licence": "cc0-1.0"}]
    kept = ("name", "licence", "terms", "redistribute_images")
    assert {name: source[name] for name in kept} == {name: original[name] for name in kept}

    sentence = f"Taken from lab/first on the Hub, commit {commit}; licence by its card: cc0-1.0."
    data("export", tmp_path / "out", "-w", workspace)
    assert sentence in (tmp_path / "out" / "README.md").read_text().replace("\\", "")
    second = published(program, workspace, "lab/second")
    assert sentence in hub.repository("lab/second").files["README.md"].content.decode()
    assert sentence in hub.repository("lab/second").files["LICENSE.md"].content.decode()

    third = tmp_path / "third"
    assert program("pfcvr-data", "import", "lab/second", "--format", "pfcvr", "-w", third).code == 0
    assert [(one["repository"], one["commit"]) for one in source_of(third)["taken_from"]] == [
        ("lab/first", commit),
        ("lab/second", second),
    ]


def test_what_is_imported_is_the_commit_that_is_recorded(
    program: Program, hub: LoopbackHub, open_set: Path, tmp_path: Path
) -> None:
    first = published(program, open_set, "lab/moving")
    repository = hub.repository("lab/moving")
    hub.state.journal.clear()
    workspace = tmp_path / "work"
    assert program("pfcvr-data", "import", "lab/moving", "--format", "pfcvr", "-w", workspace).code == 0
    assert all(first in entry.path for entry in hub.asked(r"GET .*/resolve/"))
    repository.put("notes.txt", b"by hand")
    assert program("pfcvr-data", "import", "lab/moving", "--format", "pfcvr", "-w", workspace).result["kept"] == 18
    assert source_of(workspace)["taken_from"][0]["commit"] == repository.head != first


def test_terms_of_a_data_set_that_is_not_ours_are_those_of_its_card(
    program: Program, foreign: Any, hub: LoopbackHub, tmp_path: Path
) -> None:
    foreign.put("TERMS.md", b"Ask first.")
    foreign.put("README.md", FOREIGN_CARD.format(licence="other").encode())
    workspace = taken_over(program, "lab/foreign", tmp_path / "work")
    source = source_of(workspace)
    terms = f"lab-terms, {hub.url}/datasets/lab/foreign/blob/{foreign.head}/TERMS.md"
    assert source["taken_from"] == [{"repository": "lab/foreign", "commit": foreign.head, "licence": terms}]
    assert (source["name"], source["licence"]) == ("lab/foreign", terms)
    assert source["terms"] == "You will not sell <b>it</b>."
    assert source["redistribute_images"] is False
    folder = Path(program("pfcvr-data", "push", "-w", workspace, "lab/made-of-it", "--dry-run").result["folder"])
    card = (folder / "README.md").read_text()
    assert f"lab/foreign on the Hub, commit {foreign.head}" in card
    assert "You will not sell &lt;b&gt;it&lt;/b&gt;." in card
    assert not list(folder.glob("*.png"))


CARDS: dict[str, str | None] = {
    FOREIGN_CARD.format(licence="cc-by-4.0"): "cc-by-4.0",
    FOREIGN_CARD.format(licence="[mit, cc-by-4.0]"): "mit, cc-by-4.0",
    FOREIGN_CARD.format(licence="[mit"): None,
    "---\n- a list\n---\n": None,
    "no metadata": None,
    "\0": None,
}


def test_the_licence_of_a_card_is_taken_as_it_stands_or_not_at_all(
    program: Program, foreign: Any, tmp_path: Path
) -> None:
    workspace = tmp_path / "work"
    command = ("pfcvr-data", "import", "lab/foreign", "--format", "pfcvr", "-w", workspace)
    assert program(*command).result["kept"] == 18
    assert source_of(workspace)["taken_from"][0]["licence"] is None
    for card, licence in CARDS.items():
        foreign.put("README.md", card.encode())
        assert program(*command).result["kept"] == 18
        source = source_of(workspace)
        assert source["taken_from"][0]["licence"] == licence
        assert source["licence"] == (licence or "see the card of the data set")


def test_a_data_set_that_is_not_there_or_not_for_this_token_is_one_sentence(
    program: Program, hub: LoopbackHub, open_set: Path, tmp_path: Path
) -> None:
    command = ("pfcvr-data", "import", "lab/absent", "--format", "pfcvr", "-w", tmp_path / "work")
    missing = (
        "lab/absent: the Hub has no such data set, or the access token may not see it; check the name and the token"
    )
    assert program(*command).sentence == missing
    published(program, open_set, "lab/absent")
    hub.repository("lab/absent").private = True
    assert program(*command, token=None).sentence.startswith("lab/absent: the Hub ")
    assert program(*command, token=OWNER_TOKEN).result["kept"] == 18


def test_annotations_on_the_hub_are_told_how_they_become_a_data_set(
    program: Program, closed_set: Path, tmp_path: Path
) -> None:
    published(program, closed_set, "lab/annotations")
    outcome = program("pfcvr-data", "import", "lab/annotations", "--format", "pfcvr", "-w", tmp_path / "work")
    assert outcome.sentence == (
        "lab/annotations: annotations without pixels; join them with your own copy of the images: "
        "hf download lab/annotations --repo-type dataset --local-dir FOLDER, then "
        "pfcvr-data rebuild FOLDER --images ROOT --out OUT"
    )


def test_a_name_on_the_hub_without_its_format_is_told_of_it(program: Program, tmp_path: Path) -> None:
    outcome = program("pfcvr-data", "import", "lab/first", "-w", tmp_path / "work")
    assert outcome.sentence.endswith("or add --format pfcvr for a data set on the Hub")


def test_rows_that_the_manifest_on_the_hub_does_not_count_fail_a_strict_import(
    program: Program, hub: LoopbackHub, open_set: Path, tmp_path: Path
) -> None:
    published(program, open_set, "lab/counted")
    repository = hub.repository("lab/counted")
    manifest = json.loads(repository.files["pfcvr.json"].content)
    manifest["splits"]["val"]["images"] += 1
    repository.put("pfcvr.json", json.dumps(manifest).encode())
    command = ("pfcvr-data", "import", "lab/counted", "--format", "pfcvr", "-w", tmp_path / "work")
    outcome = program(*command, "--strict")
    there = manifest["splits"]["val"]["images"]
    assert f"split val: {there - 1} rows, pfcvr.json says {there}" in outcome.sentence
