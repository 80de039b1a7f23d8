"""An ablation table as Markdown, CSV and a picture: ours with deviation, the published figures beside, chance below."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfcvr.model.ablation_tables import AblationTable
from pfcvr.model.published import METRICS, PublishedTable
from pfcvr.model.text_table import markdown_table, measured, shares

TITLES = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP"}


@dataclass(frozen=True)
class AblationReport:
    """The rows of ``table`` that are finished.

    ``facts`` says what they were measured on; each of ``rows`` has ``key``, ``label``, ``runs``, ``metrics``, which
    holds mean, deviation and the values of the seeds in percent, ``diverged``, which says of each seed that came to no
    end why, and ``warnings`` of runs that were trained on what they are measured on. A seed that diverged is left out
    of the figures; the mean of a row without any other is None. ``published`` has the printed figures of each row by
    its key, ``rivals`` those of methods that have rows of their own.
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

    @property
    def warnings(self) -> list[str]:
        """What is to be said of each run that was trained on what it is measured on."""
        return [warning for row in self.rows for warning in row["warnings"]]

    def text(self) -> str:
        """Markdown, with what it was measured on above and what to know about the published figures below."""
        titles, blank = [self.table.title, *TITLES.values()], []
        if self.published is not None:
            titles += [f"{self.published.on}: {title}" for title in TITLES.values()]
            blank = [""] * len(TITLES)
        cells = [[row["label"], *_ours(row), *self._theirs(row)] for row in self.rows]
        cells.append([self._chance_is(), *shares(self.facts["chance"], TITLES), *blank])
        if self.rivals is not None:
            cells += [[f"{name}, {self.rivals.on}", *shares(row, METRICS)] for name, row in self.rivals.rows.items()]
        return "\n".join([self._head(), "", markdown_table(titles, cells), "", *self._notes()])

    def csv(self) -> str:
        """One line a row: key, label, then mean, deviation and published figure of each metric in percent.

        ``published_on`` names the data set of the published figures.
        """
        import pandas

        on = {} if self._printed is None else {"published_on": self._printed.data_set}
        records = []
        for row in self.rows:
            record = {"key": row["key"], "label": row["label"]}
            for name, found in row["metrics"].items():
                record |= {name: found["mean"], f"{name}_deviation": found["deviation"]}
            if self.published is not None:
                record |= on | {f"published_{name}": value for name, value in self.published.rows[row["key"]].items()}
            records.append(record)
        for name, row in {} if self.rivals is None else self.rivals.rows.items():
            printed = {f"published_{metric}": row[metric] for metric in METRICS}
            records.append({"key": name, "label": name} | on | printed)
        text: str = pandas.DataFrame(records).to_csv(index=False)
        return text

    def draw(self, path: Path) -> None:
        """Rank-1 and mAP as a picture: points with deviations, chance dotted; apart from them, the published figures.

        A published sweep shares the axes of ours where the data set can be the same one.
        """
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        sweep = self.table.axis is not None
        stories = 2 if sweep and self.published is not None and not self._same_data else 1
        size = (11, 1.4 + 3 * stories) if sweep else (11, 2.0 + 0.4 * len(self._labels))
        figure, panels = pyplot.subplots(stories, 2, figsize=size, layout="constrained", squeeze=False)
        for column, name in enumerate(("rank1", "mAP")):
            if sweep:
                self._draw_sweep(panels[0, column], panels[-1, column], name)
            else:
                self._draw_rows(panels[0, column], name, with_labels=column == 0)
        for axes in panels.flat:
            axes.grid(alpha=0.3)
        legends = [axes.get_legend_handles_labels() for axes in panels[:, 0]]
        handles, labels = ([one for legend in legends for one in legend[which]] for which in (0, 1))
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
        figure.suptitle(self._head().replace(". ", "\n", 1), fontsize=9)
        figure.savefig(path, dpi=120)
        pyplot.close(figure)

    def _draw_sweep(self, axes: Any, theirs: Any, name: str) -> None:
        places = [float(row["key"]) for row in self.rows]
        axes.errorbar(places, *self._points(name), fmt="o-", capsize=3, label=self._ours_is())
        axes.axhline(self.facts["chance"][name], color="tab:red", ls=":", lw=1, label=self._chance_is())
        if self.published is not None:
            printed = [self.published.rows[row["key"]][name] for row in self.rows]
            theirs.plot(places, printed, "o--", mfc="none", color="tab:grey", label=self.published.on)
            theirs.set(ylabel=f"{TITLES[name]}, percent, {self.published.on}")
        axes.set(ylabel=f"{TITLES[name]}, percent")
        for drawn in (axes, theirs):
            drawn.update_datalim([(places[0], 0)])
            drawn.autoscale_view()
            drawn.set_ylim(0, None)
        theirs.set(xlabel=self.table.axis, xlim=axes.get_xlim())

    def _draw_rows(self, axes: Any, name: str, with_labels: bool) -> None:
        """Ours above, where chance is chance; below a line the published figures, of data of their own."""
        means, spread = self._points(name)
        axes.errorbar(means, range(len(self.rows)), xerr=spread, fmt="o", capsize=3, label=self._ours_is())
        bottom, end = len(self.rows) - 0.5, len(self._labels) - 0.5
        axes.vlines(self.facts["chance"][name], -0.5, bottom, color="tab:red", ls=":", lw=1, label=self._chance_is())
        if self._printed is not None:
            printed = [row[name] for row in self._printed_rows.values()]
            places = range(len(self.rows), len(self._labels))
            axes.plot(printed, places, "o", mfc="none", color="tab:grey", label=self._printed.on)
            axes.axhspan(bottom, end, color="tab:grey", alpha=0.12, lw=0)
        axes.set(xlabel=f"{TITLES[name]}, percent", xlim=(0, None), ylim=(end, -0.5))
        axes.set_yticks(range(len(self._labels)), self._labels if with_labels else [""] * len(self._labels))

    @property
    def _printed(self) -> PublishedTable | None:
        return self.published or self.rivals

    @property
    def _printed_rows(self) -> dict[str, dict[str, float]]:
        """The printed figures by what the picture calls them, those of our own rows as far as these are finished."""
        if self._printed is None:
            return {}
        found = self._printed.rows
        if self.published is not None:
            found = {row["label"]: self.published.rows[row["key"]] for row in self.rows}
        return {f"{name}, on {self._printed.data_set}": row for name, row in found.items()}

    @property
    def _labels(self) -> list[str]:
        return [*(row["label"] for row in self.rows), *self._printed_rows]

    @property
    def _same_data(self) -> bool:
        images, vehicles = self.facts["gallery"], self.facts["identities"]
        return self._printed is not None and self._printed.is_measured_on(images, vehicles)

    def _points(self, name: str) -> tuple[list[float], list[float]]:
        found = [row["metrics"][name] for row in self.rows]
        means = [math.nan if one["mean"] is None else one["mean"] for one in found]
        return means, [one["deviation"] or 0.0 for one in found]

    def _theirs(self, row: dict[str, Any]) -> list[str]:
        return [] if self.published is None else shares(self.published.rows[row["key"]], METRICS)

    def _ours_is(self) -> str:
        return "ours, mean ± deviation over the seeds" if len(self.facts["seeds"]) > 1 else "ours, one seed"

    def _chance_is(self) -> str:
        return f"chance on {Path(self.facts['data']).name}"

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
        notes += self.warnings
        compared = [row["runs"] for row in self.rows if not row["diverged"]]
        if len(compared) > 1:
            split = [] if self.facts["split"] == "test" else ["--split", self.facts["split"]]
            command = shlex.join(["pfcvr", "compare", *compared, *split])
            notes.append(
                f"Intervals, and a paired test of each row against the first, in the folder of this table: {command}"
            )
        if self._printed is not None:
            notes += self._printed.caveats(self.facts["gallery"], self.facts["identities"])
        return notes


def _ours(row: dict[str, Any]) -> list[str]:
    figures = [row["metrics"][name] for name in METRICS]
    return ["diverged" if one["mean"] is None else measured(one["mean"], one["deviation"]) for one in figures]
