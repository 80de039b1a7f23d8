import csv
import io
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from PIL import Image

from pfcvr.cli import model_app, run
from pfcvr.config import AblateConfig
from pfcvr.errors import DataError, SealedError, TrainingDiverged, UsageError
from pfcvr.model import ablation, ablation_tables
from pfcvr.model.ablation import ablate
from pfcvr.model.ablation_report import AblationReport
from pfcvr.model.ablation_tables import TABLES, ablation_table
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.published import published_ablation
from pfcvr.model.recipes import flat_keys, load_recipe
from pfcvr.model.run_folder import RunFolder

SHORT = ("schedule.length=3", "schedule.warmup=1", "schedule.evaluate_every=3")


@pytest.fixture
def config(painted: Path, small_model: tuple[str, ...], tmp_path: Path) -> AblateConfig:
    overrides = (*small_model, *SHORT)
    values: dict[str, Any] = {"data": str(painted), "out": tmp_path / "study", "overrides": overrides, "workers": 0}
    return AblateConfig(**values, threads=1, table="5", seeds=(1, 2))


def recipes_of(name: str) -> list[dict[str, Any]]:
    """The resolved recipes of the rows of a table of ``t2i-veri``."""
    rows = ablation_table(name, load_recipe("t2i-veri")).rows
    loaded = [load_recipe("t2i-veri", row.overrides, row.variant, row.method) for row in rows]
    return [flat_keys(recipe.model_dump(mode="json")) for recipe in loaded]


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {key: after[key] for key in after if after[key] != before[key]}


def test_the_rows_of_table_5_add_one_thing_after_another_up_to_the_recipe() -> None:
    baseline, plfa, bmria, copies = recipes_of("5")
    weights = {key.removeprefix("model.losses."): value for key, value in baseline.items() if ".losses." in key}
    assert {name for name, weight in weights.items() if weight} == {"sdm", "id", "mlm"}
    assert changes(baseline, plfa) == {"model.losses.part_itc": 0.2}
    assert changes(plfa, bmria) == {"model.losses.mim": 0.5}
    assert changes(bmria, copies) == {"augment.expand": True}
    assert copies == flat_keys(load_recipe("t2i-veri").model_dump(mode="json"))


def test_the_rows_of_the_other_tables_change_what_the_table_is_about() -> None:
    whole = flat_keys(load_recipe("t2i-veri").model_dump(mode="json"))
    part_mlm, plfa = recipes_of("6")
    assert changes(whole, part_mlm) == {"model.losses.part_itc": 0.0, "model.losses.part_mlm": 0.2}
    assert plfa == whole
    ratios = [changes(whole, row).get("model.patch_mask_ratio", 0.25) for row in recipes_of("7")]
    assert ratios == [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55]
    weights = [changes(whole, row).get("model.losses.part_itc", 0.2) for row in recipes_of("8")]
    assert weights == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert all(len(changes(whole, row)) <= 1 for row in [*recipes_of("7"), *recipes_of("8")])


def test_each_improvement_of_ours_has_a_row_of_its_own() -> None:
    none, *each, everything = recipes_of("extended")
    assert len(each) >= 3
    own = [changes(none, row) for row in each]
    assert all(len(change) == 1 for change in own)
    assert changes(none, everything) == {key: value for change in own for key, value in change.items()}
    extended = flat_keys(load_recipe("t2i-veri", variant="extended").model_dump(mode="json"))
    assert changes(everything, extended) == {"variant": "extended"}


def test_the_table_of_methods_goes_from_clip_over_irra_to_ours() -> None:
    clip, baseline, *_, ours = recipes_of("methods")
    assert {key for key, value in clip.items() if ".losses." in key and value} == {"model.losses.itc"}
    assert (clip["method"], baseline["method"], ours["variant"]) == ("clip", "pfcvr", "extended")


def test_the_label_of_a_row_names_every_loss_that_it_has() -> None:
    def labels(name: str, *overrides: str) -> list[str]:
        return [row.label for row in ablation_table(name, load_recipe("t2i-veri", overrides)).rows]

    assert labels("5")[:2] == ["baseline: SDM + ID + MLM", "+ PLFA"]
    assert labels("3")[0] == "ours: IRRA-style baseline, SDM + ID + MLM"
    departing = ("model.losses.itc=1", "model.losses.part_across=0.1", "model.losses.part_mlm=0.2")
    assert labels("5", *departing)[:2] == [
        "baseline: SDM + ID + MLM + InfoNCE",
        "+ PLFA + contrast across images + Part MLM",
    ]
    assert labels("3", *departing)[0] == "ours: IRRA-style baseline, SDM + ID + MLM + InfoNCE"


def test_every_row_that_was_published_has_its_figures() -> None:
    for name in "5678":
        published = published_ablation(name)
        assert published is not None
        assert {row.key for row in ablation_table(name, load_recipe("t2i-veri")).rows} == set(published.rows)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("5", r"table 5 takes model.losses.mlm away, which the recipe weighs 0 already, .*--set model.losses.mlm=0.1"),
        ("7", r"table 7 takes model.losses.mim away"),
    ],
)
def test_a_recipe_that_has_nothing_to_take_away_is_refused(table: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        ablation_table(table, load_recipe("tiny"))


def test_a_recipe_that_never_reads_the_mask_ratio_is_refused_for_table_7() -> None:
    parts_alone = ("model.masked_patches=zero", "model.masked_patch_choice=parts")
    with pytest.raises(UsageError, match="so its rows would be the same; --set model.masked_patch_choice=parts_first"):
        ablation_table("7", load_recipe("t2i-veri", parts_alone))


def test_a_recipe_without_copies_is_refused_for_table_5() -> None:
    with pytest.raises(UsageError, match="takes the copies of the images away.*--set augment.expand=true"):
        ablation_table("5", load_recipe("t2i-verw"))


@pytest.mark.timeout(240)
def test_a_table_is_trained_measured_and_written_in_all_forms(config: AblateConfig) -> None:
    said: list[str] = []
    report = ablate(config, quiet=True, say=said.append)
    assert [row["key"] for row in report.rows] == ["baseline", "plfa", "bmria", "augmentation"]
    assert "table 5, row 2 of 4, seed 2: + PLFA + contrast across images" in said
    written = json.loads((config.out / "table-5-test.json").read_text())
    assert written == json.loads(json.dumps(report.as_dict()))

    row = written["rows"][1]
    runs = [config.out / row["runs"] / f"seed-{seed}" for seed in (1, 2)]
    reached = [json.loads((path / "eval-test.json").read_text())["metrics"]["rank1"] for path in runs]
    assert row["metrics"]["rank1"]["mean"] == pytest.approx(mean(reached))
    assert row["metrics"]["rank1"]["deviation"] == pytest.approx(stdev(reached))
    assert not RunFolder(runs[0]).read_recipe().augment.expand

    text = (config.out / "table-5-test.md").read_text()
    assert f"{mean(reached):.1f} ± {stdev(reached):.1f}" in text
    assert "| published on T2I-VeRI: Rank-1 |" in text
    assert "(15 images of 5 vehicles) is not the test split of T2I-VeRI (729 images of 230 vehicles)" in text
    chance = next(line for line in text.splitlines() if line.startswith("| chance on data-set "))
    cells = [cell.strip() for cell in chance.split("|")][2:-1]
    assert cells[:3] == ["20.0", "73.6", "97.8"]  # one, five and ten of 15 images, of which 3 are right
    assert cells[4:] == [""] * 4
    assert "26.6 " in text
    assert "Figures published on T2I-VeRI: Table V," in text
    assert "chance" in text
    assert "Average precision is not defined alike" in text
    records = list(csv.DictReader(io.StringIO((config.out / "table-5-test.csv").read_text())))
    assert float(records[1]["rank1"]) == pytest.approx(mean(reached))
    assert float(records[3]["published_rank1"]) == 29.2
    with Image.open(config.out / "table-5-test.png") as picture:
        assert picture.width > 800


def counting(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Path]:
    """Folders for which ``ablation``'s function ``name`` was called."""
    called: list[Path] = []
    honest = getattr(ablation, name)

    def spy(config: Any, *others: Any) -> Any:
        called.append(getattr(config, "out", None) or config.run)
        return honest(config, *others)

    monkeypatch.setattr(ablation, name, spy)
    return called


@pytest.mark.timeout(240)
def test_a_stopped_table_goes_on_and_rows_that_tables_share_are_trained_once(
    config: AblateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(update={"table": "6", "seeds": (1,)})

    def stop_at_plfa(sentence: str) -> None:
        if sentence.endswith(": PLFA"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(config, quiet=True, say=stop_at_plfa)
    assert [row["key"] for row in json.loads((config.out / "table-6-test.json").read_text())["rows"]] == ["part_mlm"]

    measured = counting(monkeypatch, "evaluate")
    finished = ablate(config, quiet=True)
    assert [path.parent.name for path in measured] == ["pfcvr-paper"]
    weights = config.out / "runs" / "pfcvr-paper" / "seed-1" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    table_5 = ablate(config.model_copy(update={"table": "5"}), quiet=True)
    assert table_5.rows[-1]["runs"] == finished.rows[-1]["runs"]
    assert table_5.rows[-1]["metrics"] == finished.rows[-1]["metrics"]
    assert weights.stat().st_mtime_ns == before
    assert len(measured) == 1 + 3

    on_test = (config.out / "table-6-test.md").read_text()
    ablate(config.model_copy(update={"split": "val"}), quiet=True)
    assert "(val: " in (config.out / "table-6-val.md").read_text()
    assert (config.out / "table-6-test.md").read_text() == on_test


@pytest.mark.timeout(240)
def test_a_table_stopped_inside_a_row_ends_in_the_same_figures(
    config: AblateConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    overrides = (*config.overrides, "checkpoint_every=1")
    config = config.model_copy(update={"table": "6", "seeds": (1,), "overrides": overrides})
    undisturbed = ablate(config.model_copy(update={"out": tmp_path / "whole"}), quiet=True)

    steps: list[int] = []
    honest = PfcvrModel.total

    def interrupted(self: PfcvrModel, *given: Any) -> torch.Tensor:
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return honest(self, *given)

    monkeypatch.setattr(PfcvrModel, "total", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ablate(config, quiet=True)
    continued = ablate(config, quiet=True)
    assert len(steps) == 2 + 2 + 3  # three steps a row; the first of them was kept, the second begun twice
    assert continued.rows == undisturbed.rows


@pytest.mark.timeout(240)
def test_tables_3_and_4_put_baseline_and_pfcvr_above_the_published_rivals(
    config: AblateConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config.model_copy(update={"seeds": (1,)})
    report = ablate(config.model_copy(update={"table": "3"}), quiet=True)
    assert [row["runs"] for row in report.rows] == ["runs/irra-paper", "runs/pfcvr-paper"]
    recipes = [RunFolder(config.out / row["runs"] / "seed-1").read_recipe() for row in report.rows]
    assert [(recipe.method, recipe.model.losses.part_itc > 0) for recipe in recipes] == [
        ("irra", False),
        ("pfcvr", True),
    ]
    again = ablate(config.model_copy(update={"table": "4"}), quiet=True)
    assert again.rows == report.rows
    for table, source, rival, rank1 in (
        ("3", "Table III, T2I-VeRI", "MARS", 25.5),
        ("4", "Table IV, T2I-VeRW", "MARS", 52.8),
    ):
        text = (config.out / f"table-{table}-test.md").read_text()
        on = source.rpartition(", ")[2]
        assert f"Figures published on {on}: {source.partition(',')[0]}, arXiv" in text
        line = next(line for line in text.splitlines() if line.startswith(f"| {rival} (2025), published on {on} "))
        assert [cell.strip() for cell in line.split("|")][2] == str(rank1)
        records = list(csv.DictReader(io.StringIO((config.out / f"table-{table}-test.csv").read_text())))
        assert float(records[0]["rank1"]) == pytest.approx(report.rows[0]["metrics"]["rank1"]["mean"])
        printed = next(record for record in records if record["key"] == f"{rival} (2025)")
        assert (float(printed["published_rank1"]), printed["published_on"]) == (rank1, on)
        with Image.open(config.out / f"table-{table}-test.png") as picture:
            assert picture.height > 500

    (told,) = re.findall("in the folder of this table: pfcvr (.*)", report.text())
    monkeypatch.chdir(config.out)
    assert run(model_app, "pfcvr", [*shlex.split(told), "--json"]) == 0
    compared = json.loads(capfd.readouterr().out)
    assert [row["run"] for row in compared["rows"]] == [row["runs"] for row in report.rows]


def test_a_table_names_no_comparison_of_rows_that_diverged_and_the_split_where_it_is_not_test() -> None:
    row = {"label": "a", "runs": "runs/a", "diverged": {}, "warnings": []}
    rows = [row, {**row, "runs": "runs/b,x=[1, 2]"}, {**row, "runs": "runs/c", "diverged": {1: "nan"}}]
    facts = {"seeds": [1], "split": "val"}
    report = AblationReport(ablation_table("extended", load_recipe("t2i-veri")), facts, rows, None)
    assert report._notes()[-1].endswith(": pfcvr compare runs/a 'runs/b,x=[1, 2]' --split val")
    assert not any("compare" in note for note in replace(report, rows=rows[1:])._notes())


def test_tables_3_and_4_need_a_recipe_of_pfcvr() -> None:
    with pytest.raises(UsageError, match="table 4 needs a recipe of method pfcvr, and this one is of irra; .*t2i-verw"):
        ablation_table("4", load_recipe("t2i-verw", method="irra"))


def diverging(monkeypatch: pytest.MonkeyPatch, runs: str) -> Callable[[str], None]:
    """A ``say`` for ``ablate``; the loss is NaN while the training it was last told of is among ``runs``, a pattern."""
    said = [""]
    honest = PfcvrModel.total

    def total(self: PfcvrModel, *given: Any) -> torch.Tensor:
        return honest(self, *given) * (float("nan") if re.search(runs, said[-1]) else 1.0)

    monkeypatch.setattr(PfcvrModel, "total", total)
    return lambda sentence: said.append(sentence) if sentence.startswith("table ") else None


@pytest.mark.timeout(240)
def test_a_seed_that_diverges_is_named_and_the_table_goes_on(
    config: AblateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(update={"table": "6"})
    report = ablate(config, quiet=True, say=diverging(monkeypatch, "row 1 of 2, seed 1"))
    part_mlm, plfa = report.rows
    assert len(part_mlm["metrics"]["rank1"]["values"]) == 1
    assert len(plfa["metrics"]["rank1"]["values"]) == 2
    assert (list(part_mlm["diverged"]), plfa["diverged"]) == ([1], {})
    text = (config.out / "table-6-test.md").read_text()
    assert "Diverged, and left out: Part MLM, seed 1: " in text
    assert "the loss is nan at step 1" in text


@pytest.mark.timeout(240)
def test_a_row_that_diverges_from_every_seed_stays_without_figures_and_the_command_fails(
    config: AblateConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    honest = PfcvrModel.total
    monkeypatch.setattr(
        PfcvrModel, "total", lambda self, losses: honest(self, losses) * (float("nan") if "part_mlm" in losses else 1)
    )
    overrides = [word for override in config.overrides for word in ("--set", override)]
    arguments = ["--data", config.data, "--out", str(config.out), "--table", "6", "--seeds", "4", "--threads", "1"]
    assert run(model_app, "pfcvr", ["ablate", *arguments, "--workers", "0", "--json", *overrides]) == 1
    part_mlm, plfa = json.loads(capfd.readouterr().out)["rows"]
    assert part_mlm["metrics"]["rank1"] == {"mean": None, "deviation": None, "values": []}
    assert "the loss is nan at step 1" in part_mlm["diverged"]["4"]
    assert plfa["metrics"]["rank1"]["mean"] > 0
    lines = (config.out / "table-6-test.md").read_text().splitlines()
    assert next(line for line in lines[3:] if line.startswith("| Part MLM ")).count(" diverged ") == 4
    records = list(csv.DictReader(io.StringIO((config.out / "table-6-test.csv").read_text())))
    assert [bool(record["rank1"]) for record in records] == [False, True]
    assert (config.out / "table-6-test.png").is_file()


def test_a_table_of_which_nothing_comes_to_its_end_is_no_table(
    config: AblateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(update={"table": "6", "seeds": (1,)})
    with pytest.raises(TrainingDiverged, match="table 6: no training came to its end; the last: .*loss is nan at step"):
        ablate(config, quiet=True, say=diverging(monkeypatch, "row"))
    assert not (config.out / "table-6-test.md").exists()


def test_a_folder_with_rows_of_another_recipe_is_refused(config: AblateConfig) -> None:
    config = config.model_copy(update={"table": "6", "seeds": (1,)})
    ablate(config, quiet=True)
    other = config.model_copy(update={"overrides": (*config.overrides, "optimizer.lr=1e-4")})
    with pytest.raises(SealedError, match=r"made from something else: optimizer.lr \(0.001 before, 0.0001 now\)"):
        ablate(other, quiet=True)


def test_parts_that_a_later_row_needs_and_the_data_lack_are_told_before_anything_is_trained(
    config: AblateConfig, make_data: Callable[..., Path], rows_of: Callable
) -> None:
    """The first row of table 5 has no part loss."""
    bare = [{**row, "parts": []} for row in rows_of(range(8))]
    data = make_data(train=bare[:12], val=bare[12:18], test=bare[18:])
    with pytest.raises(DataError, match="no train image shows a part, which the part losses need"):
        ablate(config.model_copy(update={"data": str(data)}), quiet=True, say=lambda _: None)
    assert not config.out.exists()


def test_a_split_without_captions_is_refused_before_anything_is_trained(
    config: AblateConfig, make_data: Callable[..., Path], rows_of: Callable[..., list]
) -> None:
    bare = [{**row, "captions": []} for row in rows_of(range(6, 8))]
    data = make_data(train=rows_of(range(4)), val=rows_of(range(4, 6)), test=bare)
    with pytest.raises(DataError, match="no image of split 'test' has a caption to search with"):
        ablate(config.model_copy(update={"data": str(data)}), quiet=True)
    assert not config.out.exists()


@pytest.mark.timeout(240)
def test_the_command_sweeps_the_weight_of_the_part_contrast(
    config: AblateConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation_tables, "ITC_WEIGHTS", (0.1, 0.2, 1.0))
    overrides = [word for override in config.overrides for word in ("--set", override)]
    arguments = ["--data", config.data, "--out", str(config.out), "--table", "8", "--seeds", "4", "--threads", "1"]
    assert run(model_app, "pfcvr", ["ablate", *arguments, "--workers", "0", "--json", *overrides]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert [row["key"] for row in answer["rows"]] == ["0.1", "0.2", "1.0"]
    assert answer["rows"][0]["metrics"]["rank1"]["deviation"] is None
    assert "one seed" in (config.out / "table-8-test.md").read_text()
    with Image.open(config.out / "table-8-test.png") as picture:
        assert picture.width > 800


def test_every_table_can_be_asked_for() -> None:
    for name in TABLES:
        assert AblateConfig(data="d", out=Path("o"), table=name).seeds == (1, 2, 3)
