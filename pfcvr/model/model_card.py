"""README.md of a published model: what it is, how it was trained, what it reached, each figure with its interval."""

import html
from dataclasses import dataclass
from typing import Any

from pfcvr.config import Recipe

TITLES = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}
TAGS = ("vehicle-re-identification", "text-to-image-retrieval", "clip", "pfcvr")


@dataclass(frozen=True)
class Measured:
    """One evaluation: ``metrics`` in percent, ``intervals`` (low, high) at 95 % where the single queries are known."""

    split: str
    data: str
    queries: int
    gallery: int
    metrics: dict[str, float]
    chance: dict[str, float]
    intervals: dict[str, list[float]]


@dataclass(frozen=True)
class ModelFacts:
    """What the card states: the repository, the run's manifest and recipe, and its evaluations."""

    name: str
    manifest: dict[str, Any]
    recipe: Recipe
    measured: tuple[Measured, ...]


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
            dataset_type=one.data,
            dataset_name=one.data,
            dataset_split=one.split,
            metric_type=name,
            metric_name=TITLES[name],
            metric_value=round(value, 2),
        )
        for one in facts.measured
        for name, value in one.metrics.items()
    ]
    data = ModelCardData(
        library_name="pfcvr",
        language="en",
        tags=list(TAGS),
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _summary(facts: ModelFacts) -> str:
    run, model = facts.manifest, facts.recipe.model
    rows, cols = model.image_size
    return "\n".join(
        [
            "Finds images of a vehicle by a sentence about it: the score is the cosine of two CLIP features.",
            f"Method {run['method']}, variant {run['variant']}, protocol {run['protocol']}, seed {run['seed']}; "
            f"{run['parameters']:,} parameters. Images are",
            f"stretched to {rows} x {cols} px, captions read up to {model.text_length} tokens.",
            "",
        ]
    )


def _use(facts: ModelFacts) -> str:
    return "\n".join(
        [
            "```python",
            "from pfcvr.model.pfcvr import PfcvrModel",
            "",
            f'model = PfcvrModel.from_pretrained("{facts.name}")',
            "```",
            "",
            f"`pfcvr eval {facts.name} --data DATA` measures it; `pfcvr search {facts.name} TEXT --data DATA` finds.",
            "",
        ]
    )


def _results(facts: ModelFacts) -> str:
    lines = ["## Results", ""]
    if not facts.measured:
        selection = facts.manifest["selection"]
        lines += [f"Not evaluated by `pfcvr eval`. Where the weights were chosen ({selection}):", ""]
        lines += [f"- {TITLES.get(name, name)} {value:.1f}" for name, value in facts.manifest["metrics"].items()]
        return "\n".join([*lines, ""])
    lines += [
        "In percent. Every caption is a query, every image of the split the gallery, a hit is the same vehicle (the",
        "described image counts). Brackets: 95 % bootstrap intervals, whole vehicles drawn, of this one seed.",
        "",
        f"| data | split | queries | gallery | {' | '.join(TITLES.values())} | chance Rank-1 | chance mAP |",
        "|---|---|---:|---:|" + "---:|" * (len(TITLES) + 2),
    ]
    for one in facts.measured:
        figures = " | ".join(_figure(one, name) for name in TITLES)
        chance = f"{one.chance['rank1']:.1f} | {one.chance['mAP']:.1f}"
        data = html.escape(one.data).replace("|", "\\|")
        lines.append(f"| {data} | {one.split} | {one.queries:,} | {one.gallery:,} | {figures} | {chance} |")
    return "\n".join([*lines, ""])


def _figure(one: Measured, name: str) -> str:
    interval = one.intervals.get(name)
    return f"{one.metrics[name]:.1f}" + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")


def _training(facts: ModelFacts) -> str:
    run, train, recipe = facts.manifest, facts.manifest["train"], facts.recipe
    backbone = html.escape(recipe.model.backbone.rpartition("/")[2] if recipe.model.backbone else "none")
    lines = [
        "## Training",
        "",
        f"- Data: {html.escape(run['data_source'])}, {train['images']:,} images of {train['identities']:,} vehicles, "
        f"{train['pairs']:,} captions ({train['truncated_captions']:,} cut)",
        f"- Backbone: {backbone}" + ("" if recipe.model.backbone else " (random weights)"),
        f"- {run['steps']:,} steps of {recipe.batch_size} pairs, learning rate {recipe.optimizer.lr:g}, "
        f"precision {recipe.precision}",
        f"- Weights of step {run['best_step']:,}, chosen on {run['selection']}",
        *(f"- {html.escape(note)}" for note in run["notes"]),
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
    elif any(one.split == facts.manifest["selection"] for one in facts.measured):
        chosen_on = facts.manifest["selection"]
        lines.append(f"- Its weights were chosen on {chosen_on}; its figures there are too high for new vehicles.")
    return "\n".join([*lines, ""])
