"""Audits of images and identities: leaks between splits, look-alikes across them, files that changed, lone images."""

from collections.abc import Iterator

from pfcvr.pipeline.audit import Finding, Tally
from pfcvr.pipeline.audit.look_alikes import look_alikes
from pfcvr.pipeline.audit.table import AuditTable
from pfcvr.records import HumanEdit, VehicleSplit
from pfcvr.store import Workspace, left_join

NEAR_DUPLICATES = "near_duplicates"


def audit_identities(workspace: Workspace) -> Iterator[Finding]:
    """A vehicle in two splits. Sealed splits have one row a vehicle; an edited file may not."""
    splits: dict[str, set[str]] = {}
    for row in workspace.records("split", VehicleSplit):
        splits.setdefault(row.vehicle_id, set()).add(row.split)
    leaks = Tally.of(vehicle_id for vehicle_id, names in splits.items() if len(names) > 1)
    yield from leaks.finding("identity_leak", "failure", "vehicles are in more than one split; split again")


def audit_images(table: AuditTable) -> Iterator[Finding]:
    """Equal bytes, look-alikes, vehicles without a split and vehicles with one image."""
    leaks, two_vehicles = Tally(), Tally()
    for splits, names in _same_bytes(table):
        (leaks if splits > 1 else two_vehicles).add_same(names)
    yield from leaks.finding(
        "content_leak", "failure", "images occur with the same bytes in two splits; remove one and import again"
    )
    yield from two_vehicles.finding(
        "same_bytes", "warning", "images occur with the same bytes under two vehicles of one split"
    )
    unsplit = Tally.of(row[0] for row in table.select("SELECT DISTINCT vehicle FROM image WHERE split IS NULL"))
    yield from unsplit.finding("missing_split", "failure", "vehicles have no split; run pfcvr-data split again")
    near = Tally()
    for pair in look_alikes(table):
        near.add_same((pair.one, pair.other), pair.distance())
    yield from near.finding(
        NEAR_DUPLICATES, "warning", "pairs of images of different splits look the same; look at them (--pairs)"
    )
    lone = Tally()
    for vehicle_id, image_id in table.select(
        "SELECT vehicle, image_id FROM image GROUP BY vehicle HAVING count(*) = 1 ORDER BY 1"
    ):
        lone.add(vehicle_id, image_id)
    yield from lone.finding("lone_images", "warning", "vehicles have one image, so nothing else can be found for them")


def audit_edits(workspace: Workspace) -> Iterator[Finding]:
    """Edits by people of other bytes than the image has now; they are not used."""
    outdated = Tally()
    if workspace.manifest("merge") is not None:
        for image, edit in left_join(workspace.images(), workspace.records("merge", HumanEdit)):
            if edit is not None and edit.image_sha256 != image.sha256:
                outdated.add_image(image.image_id)
    yield from outdated.finding(
        "outdated_edits", "warning", "edits by people are of other bytes of their image and not used; merge them anew"
    )


def _same_bytes(table: AuditTable) -> Iterator[tuple[int, list[str]]]:
    """Number of splits, and image_ids, of images with the same bytes in several splits or under several vehicles."""
    query = (
        "SELECT count(DISTINCT split), group_concat(image_id, char(10)) FROM image "
        "GROUP BY sha256 HAVING count(DISTINCT split) > 1 OR count(DISTINCT vehicle) > 1 ORDER BY min(image_id)"
    )
    for splits, names in table.select(query):
        yield splits, sorted(names.split("\n"))
