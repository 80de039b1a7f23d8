"""Load a backend by name from a plain dict ``name -> ("module:attribute", extra or None)``, imported when chosen."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pfcvr.errors import BackendError, UsageError

BackendTable = dict[str, tuple[str, str | None]]


def load_backend(kind: str, table: BackendTable, name: str) -> Any:
    """The attribute that ``table[name]`` points to.

    Raises UsageError for an unknown name and BackendError, with the pip line to type, when a package is missing.
    """
    if name not in table:
        raise UsageError(f"unknown {kind} '{name}'; choose one of: {', '.join(sorted(table))}")
    module_name, _, attribute = table[name][0].partition(":")
    with _extra_named(kind, table, name):
        return getattr(importlib.import_module(module_name), attribute)


def build_backend(kind: str, table: BackendTable, name: str, *arguments: Any) -> Any:
    """What the backend ``table[name]`` makes of ``arguments``; raises as ``load_backend`` does.

    For backends that import their packages when they are made.
    """
    factory = load_backend(kind, table, name)
    with _extra_named(kind, table, name):
        return factory(*arguments)


@contextmanager
def _extra_named(kind: str, table: BackendTable, name: str) -> Iterator[None]:
    """Turn the error of a package that is not installed into the pip line to type."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra, package = table[name][1], (error.name or "").split(".")[0]
        if extra is None or package.startswith("pfcvr") or not isinstance(error, ModuleNotFoundError):
            raise
        raise BackendError(
            f"{kind} '{name}' needs the package '{package}'; in the clone run: pip install -e '.[{extra}]'"
        ) from None
