"""Named training recipes, one TOML file each, and how ``--set KEY=VALUE`` changes them."""

import json
import tomllib
from collections.abc import Sequence
from copy import deepcopy
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import Any

from pfcvr.config import METHODS, Method, Recipe, Variant, parse, read_toml, variant_values
from pfcvr.errors import UsageError


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    names = (entry.name for entry in files(__package__).iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_recipe(
    name: str, overrides: Sequence[str] = (), variant: Variant | None = None, method: Method | None = None
) -> Recipe:
    """The recipe called ``name``, or of the TOML file at that path, with ``overrides`` such as ``optimizer.lr=1e-4``.

    Layers, each over the one before: ``variant``, the recipe, ``method``, the overrides. A file that names its method,
    as the ``recipe.toml`` of a run does, keeps its own values over it.

    Raises:
        UsageError: no such recipe, a key or value that a recipe does not know (the known keys are named), or another
            method or variant than the file was made with.
    """
    if name in recipe_names():
        values = tomllib.loads(files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    elif name.endswith(".toml"):
        values = read_toml(Path(name))
    else:
        known = ", ".join(recipe_names())
        raise UsageError(f"unknown recipe '{name}'; choose one of: {known}, or give the path of a .toml file")
    written = parse(Recipe, values, f"recipe '{name}'")
    _check_layer(name, "variant", values.get("variant"), variant)
    _check_layer(name, "method", values.get("method"), method)
    layers = [values, deepcopy(METHODS[method or written.method])]
    if "method" in values:
        layers.reverse()
    chosen = variant or written.variant
    values = reduce(_layered, [*layers, {"variant": chosen, "method": method or written.method}])
    for override in overrides:
        _set(values, override)
    where = "--set" if overrides else f"recipe '{name}'"
    recipe = parse(Recipe, _layered(variant_values(chosen), values), where)
    if recipe.augment.expand:
        return recipe
    return parse(Recipe, _layered(variant_values(chosen, copies=False), values), where)


def recipe_text(recipe: Recipe) -> str:
    """``recipe`` as TOML with every key resolved; ``load_recipe`` reads it back. Keys without a value are left out."""
    return "\n".join(_table(recipe.model_dump(mode="json"), ())) + "\n"


def flat_keys(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flat_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _table(values: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict | None)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", *_table(value, (*path, key))]
    return lines


def _check_layer(recipe: str, layer: str, written: str | None, asked: str | None) -> None:
    if None not in (written, asked) and written != asked:
        raise UsageError(
            f"recipe '{recipe}' has {layer} {written} worked in and cannot become {asked}; give the recipe "
            f"that it was made from, or ask for no other {layer}"
        )


def _layered(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both nested tables in one, ``above`` winning."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _layered(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _set(values: dict[str, Any], override: str) -> None:
    """Put one ``KEY=VALUE`` into nested tables; a value that is not TOML is text."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {override}: expected KEY=VALUE, for example --set optimizer.lr=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if key.strip() in ("method", "variant"):
        raise UsageError(f"--set {override}: a {key.strip()} is many keys at once; give --{key.strip()} {text.strip()}")
    *tables, last = key.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise UsageError(f"--set {override}: '{table}' is a value, not a table of keys; see recipe.toml of any run")
    values[last] = value
