"""An ablation table as Markdown, CSV and a picture: ours with deviation, the published figures beside, chance below."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfcvr.model.ablation_tables import AblationTable
from pfcvr.model.published import CAVEAT, METRICS, PublishedTable
from pfcvr.model.text_table import markdown_table, measured

TITLES = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP"}


@dataclass(frozen=True)
class AblationReport:
    """The rows of ``table`` that are finished.

    ``facts`` says what they were measured on; each of ``rows`` has ``key``, ``label``, ``runs``, ``metrics``, which
    holds mean, deviation and the values of the seeds in percent, and ``diverged``, which says of each seed that came to
    no end why. Such a seed is left out of the figures; the mean of a row without any other is None. ``published`` has
    the printed figures of each row by its key, ``rivals`` those of methods that have rows of their own.
    """

    table: AblationTable
    facts: dict[str, Any]
    rows: list[dict[str, Any]]
    published: PublishedTable | None
    rivals: PublishedTable | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"table": self.table.name, "title": self.table.title, **self.facts, "rows": self.rows}

    @property
    def diverged(self) -> list[str]:
        """What is to be said of each training that came to no end."""
        return [f"{row['label']}, seed {seed}: {why}" for row in self.rows for seed, why in row["diverged"].items()]

    def text(self) -> str:
        """Markdown, with what it was measured on above and what to know about the published figures below."""
        titles = [self.table.title, *TITLES.values()]
        if self.published is not None:
            titles += [f"published {title}" for title in TITLES.values()]
        cells = [[row["label"], *_ours(row), *self._theirs(row)] for row in self.rows]
        cells += [
            [f"{name}, as printed", *(f"{row[metric]:.1f}" for metric in METRICS)] for name, row in self._rivals.items()
        ]
        chance = self.facts["chance"]
        cells.append(["chance", f"{chance['rank1']:.1f}", "", "", f"{chance['mAP']:.1f}", *[""] * (len(titles) - 5)])
        return "\n".join([self._head(), "", markdown_table(titles, cells), "", *self._notes()])

    def csv(self) -> str:
        """One line a row: key, label, then mean, deviation and published figure of each metric in percent."""
        import pandas

        records = []
        for row in self.rows:
            record = {"key": row["key"], "label": row["label"]}
            for name, found in row["metrics"].items():
                record |= {name: found["mean"], f"{name}_deviation": found["deviation"]}
            if self.published is not None:
                record |= {f"published_{name}": value for name, value in self.published.rows[row["key"]].items()}
            records.append(record)
        for name, row in self._rivals.items():
            records.append({"key": name, "label": name} | {f"published_{metric}": row[metric] for metric in METRICS})
        text: str = pandas.DataFrame(records).to_csv(index=False)
        return text

    def draw(self, path: Path) -> None:
        """Rank-1 and mAP as a picture: points with deviations, published figures as open circles, chance dotted."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        sweep = self.table.axis is not None
        size = (11, 4.4) if sweep else (11, 1.9 + 0.45 * len(self.rows) + 0.25 * len(self._rivals))
        figure, panels = pyplot.subplots(1, 2, figsize=size, layout="constrained", sharey=not sweep)
        for axes, name in zip(panels, ("rank1", "mAP"), strict=True):
            (self._draw_sweep if sweep else self._draw_rows)(axes, name)
            axes.grid(alpha=0.3)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
        figure.suptitle(self._head().replace(". ", "\n", 1), fontsize=9)
        figure.savefig(path, dpi=120)
        pyplot.close(figure)

    def _draw_sweep(self, axes: Any, name: str) -> None:
        places = [float(row["key"]) for row in self.rows]
        axes.errorbar(places, *self._points(name), fmt="o-", capsize=3, label=self._ours_is())
        if self.published is not None:
            theirs = [self.published.rows[row["key"]][name] for row in self.rows]
            axes.plot(places, theirs, "o--", mfc="none", color="tab:grey", label=self._published_on())
        axes.axhline(self.facts["chance"][name], color="tab:red", ls=":", lw=1, label="chance")
        axes.set(xlabel=self.table.axis, ylabel=f"{TITLES[name]}, percent", ylim=(0, None))

    def _draw_rows(self, axes: Any, name: str) -> None:
        places = range(len(self.rows))
        means, spread = self._points(name)
        axes.errorbar(means, places, xerr=spread, fmt="o", capsize=3, label=self._ours_is())
        if self.published is not None:
            theirs = [self.published.rows[row["key"]][name] for row in self.rows]
            axes.plot(theirs, places, "o", mfc="none", color="tab:grey", label=self._published_on())
        labels = [*(row["label"] for row in self.rows), *self._rivals]
        if self.rivals is not None:
            theirs = [row[name] for row in self._rivals.values()]
            axes.plot(theirs, range(len(self.rows), len(labels)), "o", mfc="none", color="tab:grey", label="as printed")
        axes.axvline(self.facts["chance"][name], color="tab:red", ls=":", lw=1, label="chance")
        axes.set(xlabel=f"{TITLES[name]}, percent", xlim=(0, None), ylim=(len(labels) - 0.5, -0.5))
        axes.set_yticks(range(len(labels)), labels)

    @property
    def _rivals(self) -> dict[str, dict[str, float]]:
        return {} if self.rivals is None else self.rivals.rows

    def _points(self, name: str) -> tuple[list[float], list[float]]:
        found = [row["metrics"][name] for row in self.rows]
        means = [math.nan if one["mean"] is None else one["mean"] for one in found]
        return means, [one["deviation"] or 0.0 for one in found]

    def _theirs(self, row: dict[str, Any]) -> list[str]:
        return [] if self.published is None else [f"{self.published.rows[row['key']][name]:.1f}" for name in METRICS]

    def _ours_is(self) -> str:
        return "ours, mean ± deviation over the seeds" if len(self.facts["seeds"]) > 1 else "ours, one seed"

    def _published_on(self) -> str:
        return "" if self.published is None else f"published on {self.published.title.rpartition(', ')[2]}"

    def _head(self) -> str:
        facts = self.facts
        seeds = ", ".join(str(seed) for seed in facts["seeds"])
        word = "seeds" if len(facts["seeds"]) > 1 else "seed"
        return (
            f"Table {self.table.name}: {self.table.title}. {Path(facts['data']).name} ({facts['split']}: "
            f"{facts['queries']:,} queries, {facts['gallery']:,} images), recipe {Path(facts['recipe']).name}, "
            f"variant {facts['variant']}, protocol {facts['protocol']}, {word} {seeds}"
        )

    def _notes(self) -> list[str]:
        many = len(self.facts["seeds"]) > 1
        notes = [
            f"Percent; {'mean ± deviation over the seeds' if many else 'one seed: small differences mean nothing'}."
        ]
        notes += [f"Diverged, and left out: {sentence}" for sentence in self.diverged]
        for printed in (self.published, self.rivals):
            if printed is not None:
                notes.append(f"Published figures: {printed.title}, arXiv 2605.06012. {CAVEAT}")
        return notes


def _ours(row: dict[str, Any]) -> list[str]:
    figures = [row["metrics"][name] for name in METRICS]
    return ["diverged" if one["mean"] is None else measured(one["mean"], one["deviation"]) for one in figures]
