"""Audits of images and identities: leaks between splits, look-alikes across them, files that changed, lone images."""

from collections.abc import Iterator

from pfcvr.pipeline.audit import Finding, Tally
from pfcvr.pipeline.audit.look_alikes import look_alikes
from pfcvr.pipeline.audit.table import AuditTable
from pfcvr.records import VehicleSplit
from pfcvr.store import Workspace


def audit_identities(workspace: Workspace) -> Iterator[Finding]:
    """A vehicle in two splits. Sealed splits have one row a vehicle; an edited file may not."""
    splits: dict[str, set[str]] = {}
    for row in workspace.records("split", VehicleSplit):
        splits.setdefault(row.vehicle_id, set()).add(row.split)
    leaks = Tally.of(vehicle_id for vehicle_id, names in splits.items() if len(names) > 1)
    yield from leaks.finding("identity_leak", "failure", "vehicles are in more than one split; split again")


def audit_images(table: AuditTable) -> Iterator[Finding]:
    """Equal bytes, look-alikes, vehicles without a split and vehicles with one image."""
    leaks = Tally.of(
        _pair(row)
        for row in table.select(
            "SELECT min(image_id), max(image_id) FROM image GROUP BY sha256 HAVING count(DISTINCT split) > 1 ORDER BY 1"
        )
    )
    yield from leaks.finding(
        "content_leak", "failure", "images occur with the same bytes in two splits; remove one and import again"
    )
    two_vehicles = Tally.of(
        _pair(row)
        for row in table.select(
            "SELECT min(image_id), max(image_id) FROM image GROUP BY sha256 "
            "HAVING count(DISTINCT vehicle) > 1 AND count(DISTINCT split) = 1 ORDER BY 1"
        )
    )
    yield from two_vehicles.finding(
        "same_bytes", "warning", "images occur with the same bytes under two vehicles of one split"
    )
    unsplit = Tally.of(row[0] for row in table.select("SELECT DISTINCT vehicle FROM image WHERE split IS NULL"))
    yield from unsplit.finding("missing_split", "failure", "vehicles have no split; run pfcvr-data split again")
    near = Tally.of(_pair(pair) for pair in look_alikes(table))
    yield from near.finding(
        "near_duplicates", "warning", "pairs of images of different splits look the same; look at them"
    )
    lone = Tally.of(
        row[0] for row in table.select("SELECT vehicle FROM image GROUP BY vehicle HAVING count(*) = 1 ORDER BY 1")
    )
    yield from lone.finding("lone_images", "warning", "vehicles have one image, so nothing else can be found for them")


def _pair(row: tuple[str, ...]) -> str:
    return " = ".join(row)
