"""The stage ``select``: which images take part, by a rule and a seed or by a list."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pfcvr.config import SelectConfig
from pfcvr.errors import SourceError, UsageError
from pfcvr.files import sha256_file
from pfcvr.identity_draw import draw_order
from pfcvr.pipeline.caption_rows import NAME_KEYS, MalformedRow, read_caption_rows
from pfcvr.pipeline.image_names import ImageNames, clean_name
from pfcvr.pipeline.sources.text_lines import refuse_utf_16, text_lines
from pfcvr.records import ImageRecord, Rejected, Selected
from pfcvr.stage import RunOptions, StagePlan, StageSummary, run_stage
from pfcvr.store import Workspace

NORMAL_REASONS = frozenset({"too_few_images", "too_few_cameras", "not_drawn", "not_listed"})
EXAMPLES = 5
IMAGE_FOLDERS = frozenset({"image", "images", "imgs"})
ROW_SUFFIXES = frozenset({".json", ".jsonl"})
RULE = (
    "vehicles with enough images and cameras, in seeded random order, until the wanted number of identities or the "
    "nearest number of images is reached; with both wanted, drawn vehicles are exchanged for undrawn ones, last drawn "
    "first, as long as that brings the number of images nearer"
)
LIST_RULE = "the images and vehicles named in the list"
Choice = Callable[[ImageRecord], tuple[str, str] | None]


@dataclass(frozen=True)
class VehicleSize:
    """Images of a vehicle and the distinct cameras known among them, at least one: some camera took them."""

    images: int
    cameras: int


def run(workspace: Workspace, config: SelectConfig, options: RunOptions) -> StageSummary:
    """Keep the images that the rule or the list chooses; all others are Rejected with the reason.

    Raises UsageError for a list together with a number, SourceError for a list that cannot be read, and what
    ``run_stage`` raises. A selection that would keep nothing leaves an earlier one as it is.
    """
    imported = workspace.sealed("import")
    inputs = {"import": imported.records_sha256}
    if config.list is not None:
        if config.identities is not None or config.images is not None:
            raise UsageError("select takes either --list or --identities/--images; leave one of them out")
        if not config.list.is_file():
            raise SourceError(f"{config.list}: no such list; expected one image_id, vehicle_id or path a line, or JSON")
        inputs["list"] = sha256_file(config.list)
    sizes = vehicle_sizes(workspace)
    dropped = _too_small(sizes, config)
    eligible = {vehicle_id: size.images for vehicle_id, size in sizes.items() if vehicle_id not in dropped}
    if config.list is None:
        drawn = draw_vehicles(eligible, config.identities, config.images, config.seed)
        choice, notes = _drawn(dropped, frozenset(drawn)), {"rule": RULE, "wanted": _wanted(config)}
    else:
        choice, notes = _listed(workspace, config.list, dropped, frozenset(sizes))

    def work(image: ImageRecord) -> Selected | Rejected:
        refused = choice(image)
        if refused is None:
            return Selected(image_id=image.image_id, vehicle_id=image.vehicle_id)
        return Rejected(stage="select", subject=image.image_id, reason=refused[0], detail=refused[1])

    def finish() -> dict[str, Any]:
        kept = Counter(image.vehicle_id for image in workspace.records("import", ImageRecord) if choice(image) is None)
        return {**notes, "identities": len(kept), "images": kept.total()}

    plan = StagePlan(
        name="select",
        kind=Selected,
        settings=config.model_dump(exclude={"list"}),
        inputs=inputs,
        rows=lambda: workspace.records("import", ImageRecord),
        key=lambda image: image.image_id,
        work=work,
        total=imported.kept,
        notes=finish,
        normal_reasons=NORMAL_REASONS,
    )
    return run_stage(workspace, plan, options)


def report(summary: StageSummary) -> str:
    """What a person should see: numbers that were wanted and not met, entries of the list that were not found."""
    notes = summary.notes
    nearest, all_taken = "as near as whole vehicles allow", "every vehicle that qualifies was taken"
    why = nearest if "not_drawn" in summary.reasons else all_taken
    lines = [
        f"{wanted:,} {what} wanted, {notes[what]:,} kept: {why}"
        for what, wanted in notes.get("wanted", {}).items()
        if notes[what] != wanted
    ]
    unmatched = notes.get("unmatched_list_entries", {"count": 0})
    if unmatched["count"]:
        several = f" or mean several ({unmatched['ambiguous']:,})" if unmatched["ambiguous"] else ""
        lines.append(
            f"entries of the list that name no image or vehicle here{several}: {unmatched['count']:,} of "
            f"{notes['list_entries']:,}, such as {', '.join(unmatched['examples'])}"
        )
    return "\n".join(lines)


def vehicle_sizes(workspace: Workspace) -> dict[str, VehicleSize]:
    """Every imported vehicle; the images of one stand together, since image_ids start with the vehicle_id."""
    sizes = {}
    for vehicle_id, images in groupby(workspace.records("import", ImageRecord), key=lambda image: image.vehicle_id):
        cameras = Counter(image.camera_id for image in images)
        sizes[vehicle_id] = VehicleSize(cameras.total(), max(len(cameras.keys() - {None}), 1))
    return sizes


def draw_vehicles(images: Mapping[str, int], identities: int | None, wanted: int | None, seed: int) -> set[str]:
    """Vehicles chosen from ``images`` (how many each has) by RULE; all of them where nothing is wanted."""
    order = draw_order(images, seed)
    if identities is None:
        return set(order if wanted is None else order[: _nearest_cut([images[v] for v in order], wanted)])
    drawn, rest = order[:identities], order[identities:]
    if wanted is not None:
        _exchange(drawn, rest, images, wanted)
    return set(drawn)


def _nearest_cut(sizes: list[int], wanted: int) -> int:
    """How many of ``sizes`` to take from the front, at least one, so that their sum is nearest to ``wanted``."""
    best, total = 1, 0
    best_distance: int | None = None
    for count, size in enumerate(sizes, start=1):
        total += size
        if best_distance is None or abs(total - wanted) < best_distance:
            best, best_distance = count, abs(total - wanted)
    return best


def _exchange(drawn: list[str], rest: list[str], images: Mapping[str, int], wanted: int) -> None:
    """Swap vehicles of ``drawn`` for vehicles of ``rest``, in place, while that brings the sum nearer to ``wanted``."""
    missing = wanted - sum(images[vehicle_id] for vehicle_id in drawn)
    # First in drawn order, so that the sizes of the chosen vehicles stay as they come rather than all at one end.
    for i, j in zip(range(len(drawn) - 1, -1, -1), range(len(rest)), strict=False):
        gain = images[rest[j]] - images[drawn[i]]
        if abs(missing - gain) < abs(missing):
            drawn[i], rest[j] = rest[j], drawn[i]
            missing -= gain
    while missing:
        i, j = _best_swap(drawn, rest, images, missing)
        gain = images[rest[j]] - images[drawn[i]] if j >= 0 else 0
        if abs(missing - gain) >= abs(missing):
            return
        drawn[i], rest[j] = rest[j], drawn[i]
        missing -= gain


def _best_swap(drawn: list[str], rest: list[str], images: Mapping[str, int], missing: int) -> tuple[int, int]:
    """Positions whose exchange leaves the least missing; (-1, -1) where there is nothing to exchange."""
    # One vehicle of each size is enough to try, so the search is over sizes, not vehicles.
    last_drawn = {images[vehicle_id]: i for i, vehicle_id in enumerate(drawn)}
    first_rest = {images[vehicle_id]: j for j, vehicle_id in reversed(list(enumerate(rest)))}
    pairs = ((abs(missing - (b - a)), -i, j) for a, i in last_drawn.items() for b, j in first_rest.items())
    _, i, j = min(pairs, default=(0, 1, -1))
    return -i, j


def _too_small(sizes: Mapping[str, VehicleSize], config: SelectConfig) -> dict[str, tuple[str, str]]:
    """Reason and detail for each vehicle that has too little."""
    dropped = {}
    for vehicle_id, size in sizes.items():
        if size.images < config.min_images:
            dropped[vehicle_id] = ("too_few_images", f"the vehicle has {size.images}, {config.min_images} wanted")
        elif size.cameras < config.min_cameras:
            dropped[vehicle_id] = ("too_few_cameras", f"the vehicle has {size.cameras}, {config.min_cameras} wanted")
    return dropped


def _drawn(dropped: Mapping[str, tuple[str, str]], drawn: frozenset[str]) -> Choice:
    def choose(image: ImageRecord) -> tuple[str, str] | None:
        if image.vehicle_id in drawn:
            return None
        return dropped.get(image.vehicle_id, ("not_drawn", "enough other vehicles were drawn"))

    return choose


def _listed(
    workspace: Workspace, path: Path, dropped: Mapping[str, tuple[str, str]], vehicle_ids: frozenset[str]
) -> tuple[Choice, dict[str, Any]]:
    """The choice that a list makes, and which of its entries name nothing here."""
    entries = list(dict.fromkeys(_entries(path)))
    vehicles = {entry for entry in entries if entry in vehicle_ids}
    named = [entry for entry in entries if entry not in vehicle_ids]
    with closing(ImageNames(named, workspace.records("import", ImageRecord))) as names:
        found = {entry: names.find(entry) for entry in named}
        ambiguous = sum(map(names.is_ambiguous, named))
    image_ids = {image_id for image_id in found.values() if image_id is not None}
    unmatched = [entry for entry, image_id in found.items() if image_id is None]

    def choose(image: ImageRecord) -> tuple[str, str] | None:
        if image.vehicle_id not in vehicles and image.image_id not in image_ids:
            return "not_listed", f"{path.name} names neither the image nor its vehicle"
        return dropped.get(image.vehicle_id)

    notes = {"count": len(unmatched), "ambiguous": ambiguous, "examples": unmatched[:EXAMPLES]}
    return choose, {"rule": LIST_RULE, "list_entries": len(entries), "unmatched_list_entries": notes}


def _entries(path: Path) -> Iterator[str]:
    """One name a line, or a row; what follows the name in VERI-Wild's three-column lists is dropped."""
    if path.suffix.lower() in ROW_SUFFIXES:
        yield from _row_names(path)
        return
    refuse_utf_16(path)
    for _, line in text_lines(path, "utf-8"):
        first, *others = line.split()
        yield first if len(others) == 2 and all(other.isdecimal() for other in others) else line


def _row_names(path: Path) -> Iterator[str]:
    """The images that the rows of a data set name, as in T2I-VeRW's released JSON; half a list is no list."""
    for row in read_caption_rows(path):
        name = None if isinstance(row, MalformedRow) else row.name()
        if name is None:
            why = row.detail if isinstance(row, MalformedRow) else f"no image under any of {', '.join(NAME_KEYS)}"
            raise SourceError(f"{path.parent / row.place}: {why}; mend the list, it is taken whole or not at all")
        folder, _, inside = clean_name(name).partition("/")
        yield inside if inside and folder in IMAGE_FOLDERS else name


def _wanted(config: SelectConfig) -> dict[str, int]:
    wanted = {"identities": config.identities, "images": config.images}
    return {name: number for name, number in wanted.items() if number is not None}
