"""Do the captions of one vehicle agree? An image that is said to have another color or type deserves a look.

A vehicle has one color and one type, so of captions that disagree some are wrong: by the model's mistake, by the light,
or because the image shows another vehicle.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from pydantic import Field

from pfcvr.records import Attribute, Caption, ImageKeyed, ImageRecord, Text
from pfcvr.scratch import temporary_tables

COMPARED: tuple[Attribute, ...] = ("color", "type")


class Doubt(ImageKeyed):
    """An image whose caption says ``said`` of ``attribute``, where others say otherwise.

    ``others`` counts what the captions of the vehicle's other images say; ``source`` is what the source says of the
    image, where it says something else in the same vocabulary.
    """

    vehicle_id: Text
    attribute: Attribute
    said: Text
    others: dict[str, int] = Field(default_factory=dict)
    source: str | None = None

    def text(self) -> str:
        """In a few words."""
        others = ", ".join(f"{value} {count} x" for value, count in self.others.items())
        against = [f"other images {others}" if others else "", f"source {self.source}" if self.source else ""]
        return f"{self.image_id} is {self.said}, {' and '.join(filter(None, against))}"


class Agreement:
    """Collects what captions say of color and type, on disk; ``doubts`` compares it."""

    def __init__(self) -> None:
        self._rows = temporary_tables(
            "CREATE TABLE said (vehicle TEXT, attribute TEXT, image_id TEXT, value TEXT, source TEXT)"
        )

    def add(self, image: ImageRecord, caption: Caption) -> None:
        """Take one image into account."""
        for attribute in COMPARED:
            value = caption.attributes.get(attribute)
            if value is not None:
                row = (image.vehicle_id, attribute, image.image_id, value, getattr(image, attribute))
                self._rows.execute("INSERT INTO said VALUES (?, ?, ?, ?, ?)", row)

    def doubts(self) -> Iterator[Doubt]:
        """In order of vehicle, attribute and image. In doubt is who does not say what most images of the vehicle say.

        Where no value has the most votes, all are in doubt. What the source says counts where captions use its word.
        """
        words = {(attribute, value.lower()) for attribute, value in self._rows.execute(VOCABULARY)}
        rows = self._rows.execute(DISPUTED)
        for (vehicle_id, attribute), group in groupby(rows, key=lambda row: row[:2]):
            said = [row[2:] for row in group]
            votes = Counter(value for _, value, _ in said)
            agreed = _winner(votes)
            for image_id, value, source in said:
                known = source is not None and (attribute, source.lower()) in words
                against_source = known and source.lower() != value.lower()
                if value != agreed or against_source:
                    yield Doubt(
                        image_id=image_id,
                        vehicle_id=vehicle_id,
                        attribute=attribute,
                        said=value,
                        others=_other_votes(votes, value),
                        source=source if against_source else None,
                    )

    def close(self) -> None:
        self._rows.close()


VOCABULARY = "SELECT DISTINCT attribute, value FROM said"
DISPUTED = """
SELECT vehicle, attribute, image_id, value, source FROM said
WHERE (vehicle, attribute) IN (
    SELECT vehicle, attribute FROM said GROUP BY vehicle, attribute
    HAVING count(DISTINCT value) > 1 OR max(source IS NOT NULL AND lower(source) <> lower(value))
)
ORDER BY vehicle, attribute, image_id
"""


def _winner(votes: Counter[str]) -> str | None:
    """The value with the most votes, or None where two have as many."""
    ordered: list[tuple[str, int]] = votes.most_common(2)
    return None if len(ordered) == 2 and ordered[0][1] == ordered[1][1] else ordered[0][0]


def _other_votes(votes: Counter[str], value: str) -> dict[str, Any]:
    return {
        other: count for other, count in sorted(votes.items(), key=lambda item: (-item[1], item[0])) if other != value
    }
