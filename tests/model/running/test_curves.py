"""curves.png: losses and metrics over one axis of steps, chance where it can be seen."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pfcvr.files import canonical_json
from pfcvr.model.run_folder import RunFolder
from pfcvr.model.run_log import draw_curves

METRICS = {"rank1": 25.0, "rank5": 60.0, "rank10": 90.0, "mAP": 30.0, "chance_rank1": 25.0, "chance_mAP": 31.0}


def drawn(folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int, evaluate_every: int) -> list[Axes]:
    """Both panels of the picture of a run of so many steps."""
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        rows.append({"step": step, "losses": {"sdm": 3.0 - step / steps, "id": 2.0}})
        if step % evaluate_every == 0:
            rows.append({"step": step, "split": "val", "metrics": METRICS})
    run = RunFolder(folder)
    run.metrics.write_text("".join(canonical_json(row) + "\n" for row in rows))
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    draw_curves(run)
    return figures[0].axes


@pytest.mark.parametrize(("steps", "every", "ticks"), [(40, 20, [0, 20, 40]), (500, 100, list(range(0, 501, 100)))])
def test_both_panels_have_the_same_steps_from_0_and_marks_at_the_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, every: int, ticks: list[int]
) -> None:
    losses, metrics = drawn(tmp_path, monkeypatch, steps, every)
    assert losses.get_xlim() == metrics.get_xlim()
    assert losses.get_xlim()[0] == 0
    for axes in (losses, metrics):
        assert [tick for tick in axes.get_xticks() if tick <= steps] == ticks


def test_many_evaluations_get_whole_round_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, _ = drawn(tmp_path, monkeypatch, 90, 3)
    assert {int(tick) % 10 for tick in losses.get_xticks()} == {0}


def test_chance_is_drawn_over_a_curve_that_lies_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, metrics = drawn(tmp_path, monkeypatch, 4, 2)
    by_label = {line.get_label(): line for line in metrics.get_lines()}
    assert by_label["chance Rank-1"].get_zorder() > by_label["Rank-1"].get_zorder()
    assert set(by_label["chance Rank-1"].get_ydata()) == set(by_label["Rank-1"].get_ydata()) == {25.0}
