"""``pfcvr info``: what a run is and what it reached, finished or not."""

from pathlib import Path
from typing import Any

from pfcvr.model.checkpoint import read_state
from pfcvr.model.evaluations import DIGITS, data_title, notes_on_data, notes_on_run, stored_evaluations
from pfcvr.model.hub_run import open_facts
from pfcvr.model.run_folder import RunFolder
from pfcvr.model.run_telemetry import read_telemetry, telemetry_text

OF_SET = ("split", "data", "data_fingerprint", "own_data", "trained_on")
SHOWN = (*OF_SET, "metrics", "chance", "queries", "gallery", "identities")


def run_info(run: Path) -> dict[str, Any]:
    """Facts of a run: its settings and, once finished, its results and evaluations; before that, how far it is.

    A run that is no folder here is looked up on the Hub, whose weights are not fetched for it.

    Raises:
        CheckpointError: there is no run, or its files are damaged.
        HubError: there is no such folder, and the Hub has no such run or was not reached.
    """
    with open_facts(run) as folder:
        if not folder.is_run:
            raise folder.no_run()
        return {"run": str(run), **_facts(folder)}


def _facts(folder: RunFolder) -> dict[str, Any]:
    recipe = folder.read_recipe()
    facts: dict[str, Any] = {"recipe": recipe.model_dump(mode="json")}
    manifest = folder.read_manifest()
    if manifest is None:
        state = read_state(folder.checkpoint)
        unfinished = {"step": state.step, "best": state.best, "trainer": folder.trainer()}
        facts |= {"finished": False, **folder.read_identity(), **unfinished}
    else:
        facts |= {"finished": True, **{name: value for name, value in manifest.items() if name != "identity"}}
    facts["telemetry"] = read_telemetry(folder.root)
    facts["evaluations"] = {one.name: {name: one.facts[name] for name in SHOWN} for one in stored_evaluations(folder)}
    return facts


def run_info_text(facts: dict[str, Any]) -> str:
    """``facts`` for people."""
    head = f"{facts['run']}: {facts['method']}, variant {facts['variant']}, protocol {facts['protocol']}, "
    lines = [head + f"seed {facts['seed']}"]
    if facts["finished"]:
        train = facts["train"]
        lines += [
            f"trained on {train['images']:,} images of {train['identities']:,} ids, {train['pairs']:,} captions, "
            f"for {facts['steps']:,} steps, {facts['parameters']:,} parameters",
            f"data set: {facts['data_source']} ({facts['data'][:DIGITS]})",
            f"best weights after step {facts['best_step']:,}: " + _measured(facts["selection"], facts["metrics"]),
        ]
        lines += [f"note: {note}" for note in facts["notes"]]
    elif facts["trainer"] is not None:
        lines.append(f"not finished: is being trained by {facts['trainer']}")
    else:
        lines.append(f"not finished: {facts['step']:,} steps so far; run the same pfcvr train again to continue")
    if told := telemetry_text(facts["telemetry"]):
        lines.append(told)
    for found in facts["evaluations"].values():
        lines.append(_measured(f"{found['split']} of {data_title(found)}:", found["metrics"]))
        lines += [f"  {note}" for note in notes_on_data(facts["run"], found)]
    return "\n".join([*lines, *notes_on_run(facts["run"], facts["evaluations"].values())])


def _measured(split: str, metrics: dict[str, float]) -> str:
    return f"{split} Rank-1 {metrics['rank1']:.1f}, Rank-5 {metrics['rank5']:.1f}, mAP {metrics['mAP']:.1f}"
