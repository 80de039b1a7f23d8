"""``pfcvr info``: what a run is and what it reached, finished or not."""

import json
from pathlib import Path
from typing import Any

from pfcvr.errors import CheckpointError
from pfcvr.model.checkpoint import read_state
from pfcvr.model.hub_run import open_facts
from pfcvr.model.run_folder import RunFolder


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
        facts |= {"finished": False, **folder.read_identity(), "step": state.step, "best": state.best}
    else:
        facts |= {"finished": True, **{name: value for name, value in manifest.items() if name != "identity"}}
    facts["evaluations"] = {
        path.stem.removeprefix("eval-"): _metrics(path) for path in sorted(folder.root.glob("eval-*.json"))
    }
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
            f"best weights after step {facts['best_step']:,}: " + _measured(facts["selection"], facts["metrics"]),
        ]
        lines += [f"note: {note}" for note in facts["notes"]]
    else:
        lines.append(f"not finished: {facts['step']:,} steps so far; run the same pfcvr train again to continue")
    lines += [_measured(split, found["metrics"]) for split, found in facts["evaluations"].items()]
    return "\n".join(lines)


def _measured(split: str, metrics: dict[str, float]) -> str:
    return f"{split} Rank-1 {metrics['rank1']:.1f}, Rank-5 {metrics['rank5']:.1f}, mAP {metrics['mAP']:.1f}"


def _metrics(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        return {name: content[name] for name in ("metrics", "chance", "queries", "gallery")}
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: damaged evaluation; run pfcvr eval again") from None
