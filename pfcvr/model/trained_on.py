"""Which images and vehicles a run was trained on, and how many of them stand in a split that it is measured on.

``RUN/trained_on.json`` holds the SHA-256 of every train image and the ids of the train vehicles, sorted. Equal bytes
are the same image for certain. Equal ids are the same vehicle where both data sets name vehicles alike, as draws from
one source do; ids of unrelated sources may coincide. So the two are counted and told apart.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfcvr.errors import CheckpointError
from pfcvr.files import write_json
from pfcvr.model.data import Rows

NAME = "trained_on.json"
NOT_KNOWN = (
    "which images it was trained on was not recorded, so it may have seen some of those it was measured on; the same "
    "pfcvr train records them for the next pfcvr eval"
)


@dataclass(frozen=True)
class TrainedOn:
    """SHA-256 of the images and ids of the vehicles that a run was trained on."""

    images: frozenset[str]
    vehicle_ids: frozenset[str]

    def shared_with(self, rows: Rows) -> dict[str, int]:
        """How many of the ``images`` and of the ``vehicle_ids`` of ``rows`` are among them."""
        return {
            "images": sum(value in self.images for value in rows.image_hashes()),
            "vehicle_ids": len(self.vehicle_ids & set(rows.vehicle_ids)),
        }


def write_trained_on(run: Path, rows: Rows) -> None:
    """Keep in the folder of a run that ``rows`` are what it was trained on."""
    write_json(run / NAME, {"images": sorted(set(rows.image_hashes())), "vehicle_ids": sorted(set(rows.vehicle_ids))})


def read_trained_on(run: Path) -> TrainedOn | None:
    """What ``write_trained_on`` kept; None for a run of a version that did not.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = run / NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        return TrainedOn(frozenset(content["images"]), frozenset(content["vehicle_ids"]))
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: damaged; remove it, and run the same pfcvr train to have it again") from None


def trained_on_sentence(run: str, evaluation: dict[str, Any]) -> str | None:
    """What a reader of an ``evaluation`` of ``run`` must know of images and vehicles in it that it was trained on."""
    shared = evaluation["trained_on"]
    if not shared or not any(shared.values()):
        return None
    vehicles = f"{shared['vehicle_ids']:,} of the {evaluation['identities']:,} vehicle ids"
    if shared["images"]:
        return (
            f"{run} was trained on {shared['images']:,} of the {evaluation['gallery']:,} images of split "
            f"'{evaluation['split']}' and on {vehicles} there: the figures are too high for vehicles it has not seen"
        )
    return (
        f"{run} was trained on other images of {vehicles} of split '{evaluation['split']}': if both data "
        "sets are of one source these are the same vehicles and the figures are too high for vehicles it has not seen; "
        "ids of unrelated sources may coincide"
    )
