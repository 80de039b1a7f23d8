"""The floors of the house: who may import whom, and that asking for help loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pfcvr"
GROUND = {"errors", "records", "config", "files", "jsonl", "store", "stage", "row_index", "progress", "backends"}
GROUND |= {"identity_draw", "clip_vocabulary", "row_pool", "stage_files", "stage_plan", "stage_reuse", "hub", "scratch"}
GROUND |= {"colours", "lettering", "wording"}
CLI = {path.stem for path in PACKAGE.glob("cli*.py")}
HEAVY = ("torch", "transformers", "datasets", "pandas", "matplotlib", "pyarrow", "cv2", "PIL", "numpy", "accelerate")
LONGEST_FILE = 420
LONGEST_FUNCTION = 65


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """``pipeline``, ``model``, or the module's own name for what lies at the top."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pfcvr":
            steps = (node.module or "").split(".")[1:]
            rooms |= {steps[0]} if steps else {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pfcvr.")}
    return rooms


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_from_floor_to_floor(path: Path) -> None:
    allowed = {
        "pipeline": GROUND | {"geometry", "pipeline"},
        "model": GROUND | {"geometry", "model"},
        "geometry": GROUND,
    }
    here = room(path)
    if here not in CLI:
        assert imported_rooms(path) <= allowed.get(here, GROUND)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small_enough_to_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name


def test_asking_for_help_loads_no_heavy_module() -> None:
    script = (
        "import sys; from pfcvr.cli import data_app, model_app, run\n"
        "for app, name in ((data_app, 'pfcvr-data'), (model_app, 'pfcvr')): assert run(app, name, ['--help']) == 0\n"
        f"print('LOADED', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
