"""README.md of a published model: what it is, how it was trained, what it reached, each figure with its interval."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pfcvr.config import Recipe
from pfcvr.hub import HUB_NAME
from pfcvr.model.device import ON_CPU
from pfcvr.model.evaluations import DIGITS
from pfcvr.model.pretrained import card_tags, usage, what_it_does
from pfcvr.model.trained_on import trained_on_sentence

TITLES = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}
OF_THE_MACHINE = (ON_CPU,)
"""Notes of a run that are about where it was made, and nobody else's business."""


@dataclass(frozen=True)
class Measured:
    """One evaluation: ``metrics`` in percent, ``intervals`` (low, high) at 95 % where the single queries are known.

    ``facts`` are what ``pfcvr eval --json`` said of the data set, counts and chance.
    """

    facts: dict[str, Any]
    metrics: dict[str, float]
    intervals: dict[str, list[float]]

    @property
    def named(self) -> tuple[str, str]:
        """Name and fingerprint of the data set."""
        return self.facts["data"], self.facts["data_fingerprint"]

    @property
    def is_of_train(self) -> bool:
        """Whether images were trained on, as far as that is known."""
        seen, of_train = self.facts["trained_on"], self.facts["own_data"] and self.facts["split"] == "train"
        return bool(of_train or (seen and seen["images"]))


@dataclass(frozen=True)
class ModelFacts:
    """What the card states: the repository, the licence if one was named, the run's manifest and recipe, evaluations.

    ``hidden`` are places on this machine, as the recipe may name them.
    """

    name: str
    licence: str | None
    manifest: dict[str, Any]
    recipe: Recipe
    measured: tuple[Measured, ...]
    hidden: Mapping[str, str]

    @property
    def unseen(self) -> list[Measured]:
        """The evaluations on images that were not trained on."""
        return [one for one in self.measured if not one.is_of_train]

    def on_hub(self, source: str | None) -> str | None:
        """``source``, if it is the name of a repository on the Hub."""
        return source if source and source not in self.hidden and HUB_NAME.fullmatch(source) else None

    def title(self, data: str, fingerprint: str) -> str:
        """The name of a data set, with digits of its fingerprint where another one has the same name."""
        named = {(self.manifest["data_source"], self.manifest.get("data")), *(one.named for one in self.measured)}
        alone = sum(name == data for name, _ in named) == 1
        return data if alone else f"{data} ({fingerprint[:DIGITS]})"


def model_card(facts: ModelFacts) -> str:
    """The text of the card."""
    sections = (
        f"---\n{_metadata(facts)}\n---\n",
        f"# {facts.name}\n",
        _summary(facts),
        _use(facts),
        _results(facts),
        _training(facts),
        _limits(facts),
    )
    return "\n".join(sections)


def _metadata(facts: ModelFacts) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-text-retrieval",
            dataset_type=facts.title(*one.named),
            dataset_name=facts.title(*one.named),
            dataset_split=one.facts["split"],
            metric_type=name,
            metric_name=TITLES[name],
            metric_value=round(value, 2),
        )
        for one in facts.unseen
        if _warning(one) is None
        for name, value in one.metrics.items()
    ]
    data_set = facts.on_hub(facts.manifest["data_source"])
    data = ModelCardData(
        library_name="pfcvr",
        language="en",
        license=facts.licence,
        base_model=facts.on_hub(facts.recipe.model.backbone),
        datasets=None if data_set is None else [data_set],
        tags=card_tags(facts.recipe.model),
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _summary(facts: ModelFacts) -> str:
    run, model = facts.manifest, facts.recipe.model
    rows, cols = model.image_size
    return "\n".join(
        [
            what_it_does(model),
            f"Method {run['method']}, variant {run['variant']}, protocol {run['protocol']}, seed {run['seed']}; "
            f"{run['parameters']:,} parameters. Images are",
            f"stretched to {rows} x {cols} px, captions read up to {model.text_length} tokens.",
            "",
        ]
    )


def _use(facts: ModelFacts) -> str:
    return "\n".join(
        [
            usage(facts.name),
            "",
            f"`pfcvr eval {facts.name} --data DATA` measures it; `pfcvr search {facts.name} TEXT --data DATA` finds.",
            "",
        ]
    )


def _results(facts: ModelFacts) -> str:
    lines = ["## Results", ""]
    if not facts.unseen:
        selection = facts.manifest["selection"]
        lines += [
            f"Not evaluated by `pfcvr eval` on images that it had not seen. On {selection}, where its weights were"
        ]
        lines += ["chosen:", ""]
        lines += [f"- {TITLES.get(name, name)} {value:.1f}" for name, value in facts.manifest["metrics"].items()]
        return "\n".join([*lines, "", *_seen(facts)])
    lines += [
        "In percent. Every caption is a query, every image of the split the gallery, a hit is the same vehicle (the",
        "described image counts). Brackets: 95 % bootstrap intervals, whole vehicles drawn, of this one seed.",
        "",
        f"| data | split | queries | gallery | {' | '.join(TITLES.values())} | chance Rank-1 | chance mAP |",
        "|---|---|---:|---:|" + "---:|" * (len(TITLES) + 2),
    ]
    for one in facts.unseen:
        found, mark = one.facts, "" if _warning(one) is None else " \\*"
        data = _escaped(facts.title(*one.named)) + mark
        figures = " | ".join(_figure(one, name) for name in TITLES)
        chance = f"{found['chance']['rank1']:.1f} | {found['chance']['mAP']:.1f}"
        lines.append(
            f"| {data} | {found['split']} | {found['queries']:,} | {found['gallery']:,} | {figures} | {chance} |"
        )
    return "\n".join([*lines, "", *_seen(facts)])


def _seen(facts: ModelFacts) -> list[str]:
    """What is to be said of evaluations on images or vehicles that were trained on."""
    left_out = ", ".join(
        f"{one.facts['split']} of {_escaped(facts.title(*one.named))}" for one in facts.measured if one.is_of_train
    )
    lines = [f"\\* {warning}." for one in facts.unseen if (warning := _warning(one)) is not None]
    if left_out:
        lines.append(f"Measured on images that it was trained on, and left out here: {left_out}.")
    if any(one.facts["trained_on"] is None for one in facts.unseen):
        lines.append(
            "Which images it was trained on was not recorded, so it may have seen some of those measured here."
        )
    return [text for line in lines for text in (line, "")]


def _escaped(text: str) -> str:
    return html.escape(text).replace("|", "\\|")


def _warning(one: Measured) -> str | None:
    return trained_on_sentence("The model", one.facts)


def _figure(one: Measured, name: str) -> str:
    interval = one.intervals.get(name)
    return f"{one.metrics[name]:.1f}" + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")


def _training(facts: ModelFacts) -> str:
    run, train, recipe = facts.manifest, facts.manifest["train"], facts.recipe
    backbone = html.escape(recipe.model.backbone.rpartition("/")[2] if recipe.model.backbone else "none")
    data = _escaped(facts.title(run["data_source"], run.get("data") or ""))
    lines = [
        "## Training",
        "",
        f"- Data: {data}, {train['images']:,} images of {train['identities']:,} vehicles, {train['pairs']:,} captions",
        f"- Backbone: {backbone}" + ("" if recipe.model.backbone else " (random weights)"),
        f"- {run['steps']:,} steps of {recipe.batch_size} pairs, learning rate {recipe.optimizer.lr:g}, "
        f"precision {recipe.precision}",
        f"- Weights of step {run['best_step']:,}",
        *(f"- {html.escape(note)}" for note in run["notes"] if note not in OF_THE_MACHINE),
        "",
        "`recipe.toml` holds every setting, `run.json` what the run was, `results.json` what was measured.",
        "",
    ]
    return "\n".join(lines)


def _limits(facts: ModelFacts) -> str:
    lines = [
        "## Limits",
        "",
        "- The answer to a sentence is a ranked list, no identification: vehicles of one make and color look alike.",
        "- It has seen the cameras and the captions of its training data; others may lie outside what it learned.",
        "- It reads no plates, and must not be used to trace people.",
    ]
    if facts.manifest["protocol"] == "published":
        lines.append(
            "- Its weights were chosen on test, as published tables do; its figures are too high for new data."
        )
    elif any(one.facts["split"] == facts.manifest["selection"] and one.facts["own_data"] for one in facts.unseen):
        chosen_on = facts.manifest["selection"]
        lines.append(f"- Its weights were chosen on {chosen_on}; its figures there are too high for new vehicles.")
    if facts.licence is None:
        lines.append("- Whoever published it named no licence: ask before you use the weights.")
    return "\n".join([*lines, ""])
