"""Load a backend by name from a plain dict ``name -> ("module:attribute", extra or None)``, imported when chosen."""

import importlib
from typing import Any

from pfcvr.errors import BackendError, UsageError

BackendTable = dict[str, tuple[str, str | None]]


def load_backend(kind: str, table: BackendTable, name: str) -> Any:
    """The attribute that ``table[name]`` points to.

    Raises UsageError for an unknown name and BackendError, with the pip line to type, when a package is missing.
    """
    if name not in table:
        raise UsageError(f"unknown {kind} '{name}'; choose one of: {', '.join(sorted(table))}")
    target, extra = table[name]
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("pfcvr"):
            raise
        raise BackendError(
            f"{kind} '{name}' needs the package '{error.name}'; run: pip install 'pfcvr[{extra}]'"
        ) from None
    return getattr(module, attribute)
