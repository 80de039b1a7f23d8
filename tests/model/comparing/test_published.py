import pytest

from pfcvr.errors import UsageError
from pfcvr.model.published import published_ablation, published_methods


def test_the_published_result_of_pfcvr_is_the_best_rank_1_of_both_data_sets() -> None:
    for data_set, rank1, rivals in (("t2i-veri", 29.2, 14), ("t2i-verw", 55.2, 11)):
        rows = published_methods(data_set).rows
        assert len(rows) == rivals + 1
        assert max(rows, key=lambda name: rows[name]["rank1"]) == "PFCVR (paper)"
        assert rows["PFCVR (paper)"]["rank1"] == rank1


def test_the_full_model_has_the_same_figures_in_every_table() -> None:
    whole = published_methods("t2i-veri").rows["PFCVR (paper)"]
    keys = {"5": "augmentation", "6": "plfa", "7": "0.25", "8": "0.2"}
    for table, key in keys.items():
        found = published_ablation(table)
        assert found is not None
        assert found.rows[key] == whole
    assert published_ablation("5").rows["baseline"] == published_methods("t2i-veri").rows["IRRA (2023)"]


def test_rank_k_never_falls_with_k() -> None:
    tables = [published_methods(name) for name in ("t2i-veri", "t2i-verw")]
    tables += [published_ablation(table) for table in "5678"]
    for row in (row for table in tables for row in table.rows.values()):
        assert 0 < row["rank1"] < row["rank5"] < row["rank10"] < 100
        assert 0 < row["mAP"] < row["rank5"]


def test_a_table_that_was_not_published_is_none_and_an_unknown_data_set_is_named() -> None:
    assert published_ablation("extended") is None
    with pytest.raises(UsageError, match="nothing is published here on 'cuhk'; choose one of: t2i-veri, t2i-verw"):
        published_methods("cuhk")
