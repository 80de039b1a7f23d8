"""The stage ``split``: whole vehicles into train, val and test, as T2I-VeRW was split (paper, section IV).

Vehicles are drawn in a seeded random order into train until the wanted share of *images* is reached (the cut closest to
it); the rest is test. Then ``val`` of the train vehicles, by number of vehicles, become val.
"""

from collections import Counter
from itertools import accumulate
from typing import Any

from pfcvr.config import SplitConfig
from pfcvr.errors import WorkspaceError
from pfcvr.identity_draw import carve_validation, draw_order
from pfcvr.records import SPLITS, Split, VehicleSplit
from pfcvr.stage import RunOptions, StagePlan, StageSummary, run_stage
from pfcvr.store import Workspace
from pfcvr.wording import amount


def run(workspace: Workspace, config: SplitConfig, options: RunOptions) -> StageSummary:
    """Write a VehicleSplit for every vehicle; raises WorkspaceError for fewer than two vehicles."""
    inputs = workspace.images_input()
    images = Counter(image.vehicle_id for image in workspace.images())
    if len(images) < 2:
        raise WorkspaceError(
            f"{workspace.root}: a split needs at least two vehicles, one for train and one for test, and there "
            f"{'is one' if images else 'is none'}; import or select more vehicles"
        )
    splits = splits_of_source(workspace) if config.from_source else split_vehicles(images, config)

    def work(vehicle_id: str) -> VehicleSplit:
        return VehicleSplit(vehicle_id=vehicle_id, split=splits[vehicle_id], images=images[vehicle_id])

    plan = StagePlan(
        name="split",
        kind=VehicleSplit,
        settings=config.model_dump(),
        inputs=inputs,
        rows=lambda: sorted(images),
        key=lambda vehicle_id: vehicle_id,
        work=work,
        total=len(images),
        notes=lambda: _notes(images, splits),
    )
    return run_stage(workspace, plan, options)


def report(summary: StageSummary) -> str:
    """Images and vehicles of train, val and test."""
    images, vehicles = summary.notes["images"], summary.notes["vehicles"]
    return ", ".join(
        f"{split} {amount(images[split], 'image')} of {amount(vehicles[split], 'vehicle')}" for split in SPLITS
    )


def splits_of_source(workspace: Workspace) -> dict[str, Split]:
    """The split that the source gives each vehicle; an image without one follows its vehicle.

    Raises WorkspaceError for a source without a split, and for a vehicle in several splits or in none: both would make
    the figures of a test set wrong.
    """
    found: dict[str, set[Split]] = {}
    for image in workspace.images():
        own = found.setdefault(image.vehicle_id, set())
        if image.source_split is not None:
            own.add(image.source_split)
    if not any(found.values()):
        raise WorkspaceError(
            f"{workspace.root}: the source says of no vehicle which split it is in (lists such as VERI-Wild's are "
            f"counted, not taken); draw a split: pfcvr-data split -w {workspace.root}"
        )
    for kind, wrong in (
        ("in several splits", sorted(vehicle_id for vehicle_id, own in found.items() if len(own) > 1)),
        ("in none", sorted(vehicle_id for vehicle_id, own in found.items() if not own)),
    ):
        if wrong:
            raise WorkspaceError(
                f"{workspace.root}: the source puts {amount(len(wrong), 'vehicle')} {kind}, such as "
                f"{', '.join(wrong[:5])}; split without --from-source, or leave those vehicles out with pfcvr-data "
                "select --list"
            )
    return {vehicle_id: next(iter(own)) for vehicle_id, own in found.items()}


def split_vehicles(images: dict[str, int], config: SplitConfig) -> dict[str, Split]:
    """The split of each vehicle, given its number of images (at least two vehicles).

    Train + val and test get at least one vehicle each; their share of images misses ``config.ratio`` by less than one
    vehicle's images.
    """
    order = draw_order(images, config.seed)
    wanted = config.ratio * sum(images.values())
    reached = list(accumulate(images[vehicle_id] for vehicle_id in order))
    cut = min(range(1, len(order)), key=lambda count: (abs(reached[count - 1] - wanted), count))
    train, test = order[:cut], order[cut:]
    splits: dict[str, Split] = dict.fromkeys(train, "train")
    splits |= dict.fromkeys(test, "test")
    splits |= dict.fromkeys(carve_validation(train, config.val, config.seed), "val")
    return splits


def _notes(images: dict[str, int], splits: dict[str, Split]) -> dict[str, Any]:
    vehicles = Counter(splits.values())
    counts: Counter[Split] = Counter()
    for vehicle_id, split in splits.items():
        counts[split] += images[vehicle_id]
    share = 1 - counts["test"] / sum(counts.values())
    return {
        "images": {split: counts[split] for split in SPLITS},
        "vehicles": {split: vehicles[split] for split in SPLITS},
        "image_share_train_and_val": round(share, 4),
    }
