"""A training run on disk: what it was made from, whether it is finished, and the lock that keeps two trainers apart.

``RUN/`` holds ``recipe.toml``, ``metrics.jsonl``, ``telemetry.jsonl``, ``curves.png``, ``tensorboard/``, ``model/``
(the best weights so far), while it trains ``draft.json`` and ``checkpoint.pt``, and once it is finished
``trained_on.json`` and ``run.json``, which is written last.
"""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pfcvr.config import Protocol, Recipe
from pfcvr.errors import CheckpointError, SealedError
from pfcvr.files import atomic_write, lock_holder, process_lock, write_json
from pfcvr.model.recipes import flat_keys, load_recipe

RUN_VERSION = 1
LOCK = ".lock"
DIFFERENCES_NAMED = 4
NAMED_IN_IDENTITY = ("method", "variant")
NAMED_IN_MANIFEST = ("method", "variant", "protocol", "seed", "best_step", "selection")


@dataclass(frozen=True)
class RunIdentity:
    """What must be equal for a rerun to be the same run. ``recipe`` is the recipe's resolved TOML text."""

    method: str
    variant: str
    protocol: Protocol
    seed: int
    data: str
    recipe: str


class RunFolder:
    """The folder of one run; the names of its files live here."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = root / "run.json"
        self.draft = root / "draft.json"
        self.recipe = root / "recipe.toml"
        self.metrics = root / "metrics.jsonl"
        self.curves = root / "curves.png"
        self.tensorboard = root / "tensorboard"
        self.model = root / "model"
        self.checkpoint = root / "checkpoint.pt"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make or enter the folder and hold its lock.

        Raises:
            CheckpointError: the folder has other content.
            LockedError: another process is training there.
        """
        if not self.is_run and self.root.exists() and (not self.root.is_dir() or self._foreign_files()):
            raise CheckpointError(
                f"{self.root}: exists and is not a training run of pfcvr; give a new or empty folder with --out"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        with process_lock(self.root / LOCK, "training in this folder"):
            yield

    def begin(self, identity: RunIdentity) -> dict[str, Any] | None:
        """The manifest if this very run is finished, else None, with the folder ready to train or to continue in.

        A run that failed before its first step is replaced.

        Raises:
            SealedError: the folder holds a run made from something else, which is named.
        """
        if any(path.is_file() for path in (self.manifest, self.checkpoint, self.metrics)):
            self._check_same(identity)
        manifest = self.read_manifest()
        if manifest is None:
            write_json(self.draft, {"run_version": RUN_VERSION, "identity": asdict(identity)})
            with atomic_write(self.recipe) as file:
                file.write(identity.recipe.encode())
        return manifest

    def finish(self, identity: RunIdentity, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the manifest, which says that the run is complete, and drop what only an unfinished run needs."""
        known = {name: value for name, value in asdict(identity).items() if name != "recipe"}
        manifest = {"run_version": RUN_VERSION, "identity": asdict(identity), **known, **facts}
        write_json(self.manifest, manifest)
        self.checkpoint.unlink(missing_ok=True)
        self.draft.unlink(missing_ok=True)
        return manifest

    @property
    def is_run(self) -> bool:
        return self.manifest.is_file() or self.draft.is_file()

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest of a finished run, else None; raises CheckpointError when it is damaged or newer."""
        return _read(self.manifest) if self.manifest.is_file() else None

    def finished(self) -> dict[str, Any]:
        """The manifest; raises CheckpointError when there is no run here or it is not finished."""
        manifest = self.read_manifest()
        if manifest is None:
            trainer = self.trainer()
            if trainer is not None:
                raise CheckpointError(f"{self.root}: is being trained by {trainer}; wait until it is finished")
            if self.draft.is_file():
                raise CheckpointError(f"{self.root}: training is not finished; run the same pfcvr train to continue it")
            raise self.no_run()
        missing = next((name for name in NAMED_IN_MANIFEST if name not in manifest), None)
        if missing is not None:
            raise CheckpointError(
                f"{self.manifest}: damaged, '{missing}' is missing; restore the file or train again in a new folder"
            )
        return manifest

    def trainer(self) -> str | None:
        """Who is training here at the moment, and after how many steps it last wrote; None where nobody is."""
        holder = lock_holder(self.root / LOCK)
        if holder is None:
            return None
        whole_lines = self.metrics.read_bytes().split(b"\n")[:-1] if self.metrics.is_file() else []
        steps = f", at least {json.loads(whole_lines[-1])['step']:,} steps so far" if whole_lines else ""
        return f"process {holder}{steps}"

    def no_run(self) -> CheckpointError:
        """The error to raise where a run is needed and there is none."""
        seeds = seed_runs(self.root)
        if seeds:
            return CheckpointError(f"{self.root}: holds runs of {len(seeds)} seeds; name one of them, {seeds[0]}")
        return CheckpointError(f"{self.root}: no training run here; make one with: pfcvr train --out {self.root}")

    def read_identity(self) -> dict[str, Any]:
        """Method, variant, protocol and seed of the run, finished or not."""
        identity = _read(self.manifest if self.manifest.is_file() else self.draft)["identity"]
        return {name: identity[name] for name in ("method", "variant", "protocol", "seed")}

    def read_recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        return load_recipe(str(self.recipe))

    def _foreign_files(self) -> bool:
        ours = {LOCK, f".{self.draft.name}.partial"}
        return any(path.name not in ours for path in self.root.iterdir())

    def _check_same(self, identity: RunIdentity) -> None:
        before = _read(self.manifest if self.manifest.is_file() else self.draft)["identity"]
        now = asdict(identity)
        short = [name for name in now if name not in ("data", "recipe") and before.get(name) != now[name]]
        changed = [f"{name} ({before.get(name)} before, {now[name]} now)" for name in short]
        if before.get("data") != now["data"]:
            changed.append("data (another data set, or it was exported anew)")
        if before.get("recipe") != now["recipe"]:
            changed += _changed_lines(str(before.get("recipe")), now["recipe"])
        if changed:
            raise SealedError(
                f"{self.root}: holds a run made from something else: {', '.join(changed)}; "
                "give another folder with --out, or the same settings to continue"
            )


def seed_folder(out: Path, seed: int) -> Path:
    """The run folder of ``seed`` inside ``out``, a folder of the same training from several seeds."""
    return out / f"seed-{seed}"


def seed_runs(out: Path) -> list[Path]:
    """The run folders that ``seed_folder`` made in ``out``, by seed."""
    found = [path for path in out.glob("seed-*") if path.name.removeprefix("seed-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("seed-")))


def _changed_lines(before: str, now: str) -> list[str]:
    """The recipe keys whose values differ, the first few of them."""
    old, new = (flat_keys(tomllib.loads(text)) for text in (before, now))
    keys = [key for key in sorted({*old, *new} - set(NAMED_IN_IDENTITY)) if old.get(key) != new.get(key)]
    named = [f"{key} ({old.get(key)} before, {new.get(key)} now)" for key in keys[:DIFFERENCES_NAMED]]
    return named + ([f"{len(keys) - DIFFERENCES_NAMED} more recipe keys"] if len(keys) > DIFFERENCES_NAMED else [])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        version = int(content["run_version"])
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: damaged; restore the file or train again in a new folder") from None
    if version > RUN_VERSION:
        raise CheckpointError(
            f"{path}: made by a newer pfcvr (version {version}, this one reads {RUN_VERSION}); upgrade"
        )
    found: dict[str, Any] = content
    return found
