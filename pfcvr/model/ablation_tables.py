"""Which trainings make up each table: our rows of the paper's Tables III and IV, Tables V to VIII, two of our own.

The rows of a table differ from the recipe in what the table is about and in nothing else. So a row that the recipe
describes already is the same training in every table.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pfcvr.config import METHODS, SWITCHES, Method, Recipe, Variant
from pfcvr.errors import UsageError
from pfcvr.model.recipes import flat_keys

MASK_RATIOS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55)  # paper Table VII
ITC_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # paper Table VIII
WITHOUT_PLFA = ("model.losses.part_itc=0", "model.losses.part_across=0", "model.losses.part_mlm=0")
WITHOUT_MIM = ("model.losses.mim=0",)
WITHOUT_COPIES = ("augment.expand=false",)


@dataclass(frozen=True)
class AblationRow:
    """One training by the recipe with ``overrides``; ``key`` names the row in files and among the published figures."""

    key: str
    label: str
    overrides: tuple[str, ...] = ()
    method: Method | None = None
    variant: Variant | None = None


@dataclass(frozen=True)
class AblationTable:
    """The rows of a table; ``axis`` names the number that the keys are, where the rows are steps of a sweep.

    ``rivals`` names the benchmark whose published methods stand below the rows.
    """

    name: str
    title: str
    rows: tuple[AblationRow, ...]
    axis: str | None = None
    rivals: str | None = None


def ablation_table(name: str, recipe: Recipe) -> AblationTable:
    """Table ``name`` for ``recipe``, the full model.

    Raises:
        UsageError: the recipe leaves out what the table takes away, so that two rows would be the same training.
    """
    return TABLES[name](recipe)


def _rivals(recipe: Recipe, name: str, benchmark: str) -> AblationTable:
    """Ours of Tables III and IV: the recipe, and IRRA on the same trainer."""
    if recipe.method != "pfcvr":
        raise UsageError(
            f"table {name} needs a recipe of method pfcvr, and this one is of {recipe.method}; give the recipe that it "
            f"was made from, for example --recipe {benchmark}"
        )
    rows = (
        AblationRow("irra", f"ours: IRRA-style baseline, {_baseline_losses(recipe)}", method="irra"),
        AblationRow("pfcvr", "ours: PFCVR"),
    )
    return AblationTable(name, "Methods", rows, rivals=benchmark)


def _modules(recipe: Recipe) -> AblationTable:
    _need(recipe, "5", "model.losses.part_itc", "model.losses.mlm", "model.losses.mim")
    if not recipe.augment.expand:
        raise UsageError(
            "table 5 takes the copies of the images away, which the recipe has not; --set augment.expand=true"
        )
    return AblationTable("5", "Modules and augmentation", tuple(_module_rows(recipe)))


def _module_rows(recipe: Recipe) -> Iterator[AblationRow]:
    """IRRA's losses at the recipe's weights, then one thing more a row; the last is the recipe itself."""
    without_parts = (*WITHOUT_PLFA, *WITHOUT_MIM, *WITHOUT_COPIES)
    yield AblationRow("baseline", f"baseline: {_baseline_losses(recipe)}", without_parts)
    yield AblationRow("plfa", _part_losses(recipe), (*WITHOUT_MIM, *WITHOUT_COPIES))
    yield AblationRow("bmria", "+ BMRIA: MIM beside MLM", WITHOUT_COPIES)
    yield AblationRow("augmentation", "+ augmentation: 3 copies")


def _baseline_losses(recipe: Recipe) -> str:
    return "SDM + ID + MLM" + (" + InfoNCE" if recipe.model.losses.itc else "")


def _part_losses(recipe: Recipe) -> str:
    losses = recipe.model.losses
    beside = {"contrast across images": losses.part_across, "Part MLM": losses.part_mlm}
    return " + ".join(["+ PLFA", *(name for name, weight in beside.items() if weight)])


def _part_supervision(recipe: Recipe) -> AblationTable:
    """Part MLM takes PLFA's place, at PLFA's weight where the recipe gives it none: nobody published one."""
    _need(recipe, "6", "model.losses.part_itc")
    losses = recipe.model.losses
    weight = losses.part_mlm or losses.part_itc
    rows = (
        AblationRow("part_mlm", "Part MLM", (*WITHOUT_PLFA[:2], f"model.losses.part_mlm={weight}")),
        AblationRow("plfa", "PLFA", ("model.losses.part_mlm=0",)),
    )
    return AblationTable("6", "Part MLM against PLFA", rows)


def _mask_ratio(recipe: Recipe) -> AblationTable:
    _need(recipe, "7", "model.losses.mim")
    if recipe.model.masked_patch_choice == "parts":
        raise UsageError(
            "table 7 changes model.patch_mask_ratio, which model.masked_patch_choice=parts never reads, so "
            "its rows would be the same; --set model.masked_patch_choice=parts_first"
        )
    rows = (
        AblationRow(
            str(ratio), f"{ratio:.0%} {recipe.model.patch_mask_ratio_means}", (f"model.patch_mask_ratio={ratio}",)
        )
        for ratio in MASK_RATIOS
    )
    axis = f"share of the patches that are {recipe.model.patch_mask_ratio_means}"
    return AblationTable("7", f"Mask ratio of BMRIA: {axis}", tuple(rows), axis)


def _itc_weight(_: Recipe) -> AblationTable:
    rows = (AblationRow(str(weight), f"{weight}", (f"model.losses.part_itc={weight}",)) for weight in ITC_WEIGHTS)
    return AblationTable("8", "Weight of the part contrast (ITC) in PLFA", tuple(rows), "weight of part_itc")


def _extended(recipe: Recipe) -> AblationTable:
    """What variant ``extended`` does better than paper and code: without all, with each alone, with all."""
    switches = [switch for switch in SWITCHES if any(row.startswith("E") for row in switch.rows)]
    off, on = {}, {}
    for switch in switches:
        off[switch.key] = switch.paper if switch.paper != switch.extended else switch.official
        own = _value(recipe, switch.key)
        on[switch.key] = own if own != off[switch.key] else switch.extended
    rows = [AblationRow("none", "none of them", _overrides(off))]
    rows += [
        AblationRow(key.split(".")[-1], f"{key} = {_text(on[key])}", _overrides({**off, key: on[key]})) for key in on
    ]
    rows.append(AblationRow("all", "all of them", _overrides(on)))
    return AblationTable("extended", "Improvements over paper and released code, each alone", tuple(rows))


def _methods(recipe: Recipe) -> AblationTable:
    """CLIP fine-tuned, then the rows of Table V, then all of ours."""
    modules = _modules(recipe).rows
    rows = (
        AblationRow("clip", "CLIP fine-tuned: InfoNCE", _overrides(flat_keys(METHODS["clip"])), method="clip"),
        *modules,
        AblationRow("extended", "ours: variant extended", _extended(recipe).rows[-1].overrides, variant="extended"),
    )
    return AblationTable("methods", "Methods on one trainer", rows)


TABLES: dict[str, Callable[[Recipe], AblationTable]] = {
    "3": lambda recipe: _rivals(recipe, "3", "t2i-veri"),
    "4": lambda recipe: _rivals(recipe, "4", "t2i-verw"),
    "5": _modules,
    "6": _part_supervision,
    "7": _mask_ratio,
    "8": _itc_weight,
    "extended": _extended,
    "methods": _methods,
}


def _need(recipe: Recipe, table: str, *keys: str) -> None:
    for key in keys:
        if not _value(recipe, key):
            raise UsageError(
                f"table {table} takes {key} away, which the recipe weighs 0 already, so two rows would be the same; "
                f"give it a weight, for example --set {key}=0.1"
            )


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for step in key.split("."):
        value = getattr(value, step)
    return value


def _overrides(values: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={_text(value)}" for key, value in values.items())


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
