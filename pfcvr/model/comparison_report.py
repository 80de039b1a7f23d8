"""A comparison of runs as Markdown and CSV."""

from dataclasses import dataclass
from typing import Any

from pfcvr.model.evaluations import data_title
from pfcvr.model.published import METRICS, PublishedTable
from pfcvr.model.text_table import markdown_table, measured, shares

TITLES = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}
TESTED = {"rank1": "Rank-1", "mAP": "mAP"}
UNITS = {
    "identities": "whole identities, since the queries of one vehicle depend on each other",
    "queries": "single queries, as if those of one vehicle were independent; identities give wider intervals",
}


@dataclass(frozen=True)
class ComparisonReport:
    """Entries of a comparison: ``rows`` as in ``as_dict``, in percent; ``published`` are printed beside them."""

    facts: dict[str, Any]
    rows: list[dict[str, Any]]
    published: PublishedTable | None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: the facts, and ``rows`` with run, method, variant, protocol, seeds, ``metrics`` (mean, low,
        high, deviation), ``trained_on``, ``warning`` where that is not nothing, ``notes`` on its data and, but for the
        first, ``against_first`` (difference, low, high, p_value)."""
        published = None if self.published is None else {"title": self.published.title, "rows": self.published.rows}
        return {**self.facts, "rows": self.rows, "published": published}

    @property
    def warnings(self) -> list[str]:
        """What is to be said of each entry that was trained on what it is measured on."""
        return [row["warning"] for row in self.rows if row["warning"] is not None]

    def text(self) -> str:
        """Markdown for people: a table of figures, one of differences, and how to read them."""
        titles = ["run", "method", "variant", "protocol", "seeds", *TITLES.values()]
        cells = [_figures(row) for row in self.rows]
        cells.append([f"chance on {self.facts['data']}", "", "", "", "", *shares(self.facts["chance"], TITLES)])
        if self.published is not None:
            cells += [
                [f"{name}, {self.published.on}", "", "", "", "", *shares(row, METRICS), ""]
                for name, row in self.published.rows.items()
            ]
        parts = [self._head(), "", markdown_table(titles, cells), ""]
        if len(self.rows) > 1:
            first = self.rows[0]["run"]
            changes = ["difference"] + [f"{title}{what}" for title in TESTED.values() for what in ("", " p")]
            parts += [markdown_table(changes, [_changes(row, first) for row in self.rows[1:]]), ""]
        return "\n".join([*parts, *self._notes()])

    def csv(self) -> str:
        """One line an entry; published rows have figures, and in ``published_on`` what they are of."""
        import pandas

        records: list[dict[str, Any]] = []
        for row in self.rows:
            record = {name: row[name] for name in ("run", "method", "variant", "protocol")}
            record["seeds"] = " ".join(map(str, row["seeds"]))
            for name, found in row["metrics"].items():
                record |= {name: found["mean"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
                record[f"{name}_deviation"] = found["deviation"]
            for name, found in row.get("against_first", {}).items():
                record |= {f"{name}_{key}_to_first": value for key, value in found.items()}
            records.append(record)
        if self.published is not None:
            on = {"published_on": self.published.data_set}
            records += [{"run": name, **on, **row} for name, row in self.published.rows.items()]
        text: str = pandas.DataFrame(records).to_csv(index=False)
        return text

    def _head(self) -> str:
        facts = self.facts
        return (
            f"Split {facts['split']} of {data_title(facts)}: {facts['queries']:,} queries of "
            f"{facts['identities']:,} identities, {facts['gallery']:,} images"
        )

    def _notes(self) -> list[str]:
        notes = [f"Percent [95 % interval], by bootstrap over {UNITS[self.facts['unit']]}."]
        notes += [note for row in self.rows for note in row["notes"]]
        if any(len(row["seeds"]) > 1 for row in self.rows):
            notes.append("± is the deviation over the seeds; the interval is of their mean and knows nothing of seeds.")
        if len(self.rows) > 1:
            notes.append(
                f"Differences are to {self.rows[0]['run']}, on the same queries; p by exchanging the two within "
                f"{self.facts['unit']}, two-sided, not corrected for the number of comparisons."
            )
        if len({row["protocol"] for row in self.rows}) > 1:
            notes.append("The protocols differ: published chooses weights on test, clean does not.")
        if self.published is not None:
            notes += self.published.caveats(self.facts["gallery"], self.facts["identities"])
        return notes


def _figures(row: dict[str, Any]) -> list[str]:
    seeds = ", ".join(str(seed) for seed in row["seeds"])
    figures = [
        f"{measured(found['mean'], found['deviation'])} [{found['low']:.1f}, {found['high']:.1f}]"
        for found in (row["metrics"][name] for name in TITLES)
    ]
    return [row["run"], row["method"], row["variant"], row["protocol"], seeds, *figures]


def _changes(row: dict[str, Any], first: str) -> list[str]:
    cells = [f"{row['run']} - {first}"]
    for name in TESTED:
        found = row["against_first"][name]
        cells += [f"{found['difference']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]", f"{found['p_value']:.4f}"]
    return cells
