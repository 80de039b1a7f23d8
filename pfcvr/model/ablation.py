"""``pfcvr ablate``: all trainings of an ablation table, each evaluated, with mean and deviation over the seeds.

``OUT/runs/NAME/seed-N`` holds one run; NAME says what the row changes in the recipe, so rows that tables share are
trained once. Run the same command again and it continues, in mid-row too; a finished row is not trained again. The
table is written anew after every row: ``table-NAME-SPLIT.md``, ``.csv``, ``.json`` and ``.png``.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pfcvr.config import AblateConfig, ComputeSettings, EvalConfig, Recipe, TrainConfig
from pfcvr.errors import DataError, TrainingDiverged
from pfcvr.files import atomic_write, write_json
from pfcvr.model.ablation_report import AblationReport
from pfcvr.model.ablation_tables import AblationRow, ablation_table
from pfcvr.model.data import open_data, training_splits
from pfcvr.model.evaluate import NAMES, evaluate
from pfcvr.model.evaluations import find_evaluation
from pfcvr.model.gather import from_first
from pfcvr.model.published import published_ablation, published_methods
from pfcvr.model.recipes import flat_keys, load_recipe
from pfcvr.model.run_folder import RunFolder, seed_folder
from pfcvr.model.statistics import mean_and_deviation
from pfcvr.model.step import start_processes
from pfcvr.model.train import check_parts, train
from pfcvr.model.trained_on import trained_on_sentence

MEASURED_ON = ("data_fingerprint", "chance", "queries", "gallery", "identities")


def ablate(config: AblateConfig, quiet: bool = False, say: Callable[[str], None] | None = None) -> AblationReport:
    """Train and evaluate every row of ``config.table`` from every seed, from wherever an earlier call stopped.

    Raises:
        UsageError: the recipe has nothing to take away for this table.
        DataError: the data set cannot be trained or evaluated on.
        SealedError: ``config.out`` holds rows of another recipe or data set.
        TrainingDiverged: no training of the table came to its end; where some did, the report names the others.
    """
    study = _Study(config, quiet, say or _print_to_stderr)
    return study.run()


class _Study:
    def __init__(self, config: AblateConfig, quiet: bool, say: Callable[[str], None]) -> None:
        self.config, self.quiet, self.say = config, quiet, say
        self.processes = start_processes(config)
        recipe = load_recipe(config.recipe, config.overrides, config.variant)
        self.table = ablation_table(config.table, recipe)
        self.recipes = [self._recipe(row) for row in self.table.rows]
        data = open_data(config.data)
        if not any(data.split(config.split).captions):
            raise DataError(f"{config.data}: no image of split '{config.split}' has a caption to search with")
        for seed in config.seeds:
            splits = training_splits(data, config.protocol, recipe.val_share, seed)
            for needed in self.recipes:
                check_parts(data.source, needed, splits)
        self.fingerprint = data.fingerprint
        self.facts: dict[str, Any] = {
            "data": config.data,
            "recipe": config.recipe,
            "variant": recipe.variant,
            "protocol": config.protocol,
            "split": config.split,
            "seeds": list(config.seeds),
        }

    def run(self) -> AblationReport:
        rivals = None if self.table.rivals is None else published_methods(self.table.rivals)
        result = AblationReport(self.table, self.facts, [], published_ablation(self.table.name), rivals)
        for number, (row, recipe) in enumerate(zip(self.table.rows, self.recipes, strict=True), start=1):
            folder = self.config.out / "runs" / self._run_name(recipe)
            evaluations, diverged = [], {}
            for seed in self.config.seeds:
                self._tell(f"table {self.table.name}, row {number} of {len(self.table.rows)}, seed {seed}: {row.label}")
                try:
                    evaluations.append(self._measure(row, seed_folder(folder, seed), seed))
                except TrainingDiverged as error:
                    diverged[seed] = str(error)
                    self._tell(diverged[seed])
            result.rows.append(_summary(row, folder.relative_to(self.config.out), evaluations, diverged))
            for found in evaluations[:1]:
                self.facts.update({name: found[name] for name in MEASURED_ON})
            if self.processes.is_main_process and "chance" in self.facts:
                _write(result, self.config.out)
        if "chance" not in self.facts:
            raise TrainingDiverged(f"table {self.table.name}: no training came to its end; the last: {diverged[seed]}")
        return result

    def _tell(self, sentence: str) -> None:
        if self.processes.is_main_process:
            self.say(sentence)

    def _recipe(self, row: AblationRow) -> Recipe:
        overrides = (*self.config.overrides, *row.overrides)
        return load_recipe(self.config.recipe, overrides, row.variant or self.config.variant, row.method)

    def _run_name(self, recipe: Recipe) -> str:
        """Method, variant, and the keys that differ from the recipe as the user gave it."""
        method = None if recipe.method == "pfcvr" else recipe.method
        plain = load_recipe(self.config.recipe, self.config.overrides, recipe.variant, method)
        before, now = (flat_keys(settings.model_dump(mode="json")) for settings in (plain, recipe))
        changed = [f"{key.split('.')[-1]}={_word(now[key])}" for key in sorted(now) if now[key] != before[key]]
        return ",".join([f"{recipe.method}-{recipe.variant}", *changed])

    def _measure(self, row: AblationRow, run: Path, seed: int) -> dict[str, Any]:
        """The evaluation of a row's run, trained and evaluated as far as that is not done yet."""
        config = self.config
        train(
            TrainConfig(
                data=config.data,
                out=run,
                recipe=config.recipe,
                overrides=(*config.overrides, *row.overrides),
                method=row.method,
                variant=row.variant or config.variant,
                protocol=config.protocol,
                seed=seed,
                **config.model_dump(include=set(ComputeSettings.model_fields)),
            ),
            self.quiet,
            self.say,
        )
        evaluation = (self._evaluated(run) or self._evaluate(run)) if self.processes.is_main_process else None
        found: dict[str, Any] = from_first(evaluation, self.processes.device)
        return found

    def _evaluate(self, run: Path) -> dict[str, Any]:
        config = self.config
        machine = {"device": config.device, "workers": config.workers}
        return evaluate(EvalConfig(run=run, data=config.data, split=config.split, **machine), self.quiet)

    def _evaluated(self, run: Path) -> dict[str, Any] | None:
        """An earlier evaluation of the finished ``run`` on the same images, if there is one."""
        found = find_evaluation(RunFolder(run), self.config.split, self.fingerprint)
        return None if found is None else found.facts


def _summary(
    row: AblationRow, folder: Path, evaluations: list[dict[str, Any]], diverged: dict[int, str]
) -> dict[str, Any]:
    metrics = {}
    for name in NAMES:
        values = [found["metrics"][name] for found in evaluations]
        mean, deviation = mean_and_deviation(values) if values else (None, None)
        metrics[name] = {"mean": mean, "deviation": deviation, "values": values}
    found = {"key": row.key, "label": row.label, "runs": str(folder), "metrics": metrics, "diverged": diverged}
    said = [trained_on_sentence(f"{folder}, seed {one['seed']},", one) for one in evaluations]
    return {**found, "warnings": [sentence for sentence in said if sentence is not None]}


def _write(report: AblationReport, out: Path) -> None:
    """The table in all its forms, with the rows that are finished so far."""
    base = out / f"table-{report.table.name}-{report.facts['split']}"
    write_json(base.with_suffix(".json"), report.as_dict())
    for suffix, text in ((".md", report.text() + "\n"), (".csv", report.csv())):
        with atomic_write(base.with_suffix(suffix)) as file:
            file.write(text.encode())
    report.draw(base.with_suffix(".png"))


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _print_to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
