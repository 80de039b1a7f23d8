"""What the pictures of ablation tables show beside ours: published figures, of data of their own, and chance."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from pfcvr.model.ablation_report import AblationReport
from pfcvr.model.ablation_tables import ablation_table
from pfcvr.model.published import published_ablation, published_methods
from pfcvr.model.recipes import load_recipe

METRICS = ("rank1", "rank5", "rank10", "mAP", "mINP")
PUBLISHED_SIZE = {"gallery": 729, "identities": 230}


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Figure]]:
    """The picture of a table whose rows all reached 6 percent where chance is 5."""
    figures: list[Figure] = []
    monkeypatch.setattr(pyplot, "close", figures.append)

    def draw(name: str, **facts: Any) -> Figure:
        table = ablation_table(name, load_recipe("t2i-veri"))
        six = {metric: {"mean": 6.0, "deviation": None, "values": [6.0]} for metric in METRICS}
        rows = [
            {"key": row.key, "label": row.label, "runs": row.key, "metrics": six, "diverged": {}, "warnings": []}
            for row in table.rows
        ]
        known = {"data": "cars", "split": "test", "queries": 30, "gallery": 15, "identities": 5, "recipe": "tiny"}
        known |= {"variant": "paper", "protocol": "clean", "seeds": [1], "chance": dict.fromkeys(METRICS[:4], 5.0)}
        rivals = None if table.rivals is None else published_methods(table.rivals)
        report = AblationReport(table, known | facts, rows, published_ablation(name), rivals)
        report.draw(tmp_path / "table.png")
        return figures[-1]

    yield draw
    monkeypatch.undo()
    for figure in figures:
        pyplot.close(figure)


def legend_of(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.legends[0].get_texts()}


@pytest.mark.parametrize(
    ("table", "data_set", "ours"), [("3", "T2I-VeRI", 2), ("4", "T2I-VeRW", 2), ("6", "T2I-VeRI", 2)]
)
def test_chance_stands_beside_our_rows_alone(
    drawn: Callable[..., Figure], table: str, data_set: str, ours: int
) -> None:
    figure = drawn(table)
    assert legend_of(figure) == {"ours, one seed", "chance on cars", f"published on {data_set}"}
    left = figure.axes[0]
    (chance,) = [
        one for one in left.collections if isinstance(one, LineCollection) and one.get_label() == "chance on cars"
    ]
    (segment,) = chance.get_segments()
    assert segment[:, 1].max() == ours - 0.5
    printed = next(line for line in left.lines if line.get_label() == f"published on {data_set}")
    assert min(printed.get_ydata()) == ours
    names = [label.get_text() for label in left.get_yticklabels()]
    assert all(name.endswith(f", on {data_set}") for name in names[ours:])
    assert not any(data_set in name for name in names[:ours])


def test_a_published_sweep_shares_the_axes_of_ours_where_the_split_has_its_size_and_nowhere_else(
    drawn: Callable[..., Figure],
) -> None:
    apart, together = drawn("7"), drawn("7", **PUBLISHED_SIZE)
    assert (len(apart.axes), len(together.axes)) == (4, 2)
    assert [axes.get_ylabel() for axes in apart.axes] == [
        "Rank-1, percent",
        "mAP, percent",
        "Rank-1, percent, published on T2I-VeRI",
        "mAP, percent, published on T2I-VeRI",
    ]
    labels = [{line.get_label() for line in axes.lines} for axes in apart.axes]
    assert "chance on cars" in labels[0] & labels[1]
    assert not {"chance on cars"} & (labels[2] | labels[3])
    assert legend_of(apart) == legend_of(together)
