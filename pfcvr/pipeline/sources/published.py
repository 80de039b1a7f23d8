"""What the owners of the data sets say theirs hold, beside what was found (reference: formats, sections 1 to 6)."""

from collections.abc import Mapping
from typing import Any

Sizes = dict[str, tuple[int | None, int | None]]

PUBLISHED: dict[str, Sizes] = {
    "veri-wild": {
        "all": (416_314, 40_671),
        "train": (277_797, 30_671),
        "test_3000": (38_861, 3_000),
        "test_3000_query": (3_000, 3_000),
        "test_5000": (64_389, 5_000),  # 69,389 with its queries
        "test_5000_query": (5_000, 5_000),
        "test_10000": (128_517, 10_000),
        "test_10000_query": (10_000, 10_000),
    },
    "veri-wild-2": {},
    "veri-776": {"all": (49_357, 776), "train": (37_778, 576), "test": (11_579, 200), "query": (1_678, 200)},
    "vehicleid": {"all": (221_567, 26_328)},
    "vric": {
        "all": (60_430, 5_622),
        "train": (54_808, None),
        "test": (5_622, None),
        "probe": (2_811, None),
        "gallery": (2_811, None),
    },
    "t2i-veri": {"all": (2_463, 776), "train": (1_734, 546), "test": (729, 230)},
    "t2i-verw": {"all": (14_668, 1_796), "train": (10_265, 1_251), "test": (4_403, 545)},
    "mvp": {"all": (24_000, None)},
}
"""Images and vehicles by layout and part of it; None where no number is published."""

TEXT_SETS: dict[str, Sizes] = {
    "CUHK-PEDES": {"all": (40_206, 13_003), "train": (34_054, 11_003), "val": (3_078, 1_000), "test": (3_074, 1_000)},
    "ICFG-PEDES": {"all": (54_522, 4_102), "train": (34_674, None), "test": (19_848, None)},
    "RSTPReid": {"all": (20_505, 4_101), "train": (None, 3_701), "val": (None, 200), "test": (None, 200)},
}
"""Of the text Re-ID sets that a generic captions file may be."""

TEXT_SET_OF_FILE = {
    "reid_raw.json": "CUHK-PEDES",
    "icfg-pedes.json": "ICFG-PEDES",
    "icfg_pedes.json": "ICFG-PEDES",
    "data_captions.json": "RSTPReid",
}


def published_counts(layout: str, found: dict[str, tuple[int, int]], file_name: str = "") -> list[dict[str, Any]]:
    """``found`` beside what is published of the layout, or of the text Re-ID set whose file has this name."""
    published = PUBLISHED.get(layout) or TEXT_SETS.get(TEXT_SET_OF_FILE.get(file_name.lower(), ""), {})
    return counts_beside(found, published)


def counts_beside(
    found: Mapping[str, tuple[int, int]], published: Mapping[str, tuple[int | None, int | None]]
) -> list[dict[str, Any]]:
    """A row for each part of the data set that was found or published: its images and vehicles, here and there."""
    rows = []
    for part in [*found, *(part for part in published if part not in found)]:
        images, vehicles = found.get(part, (0, 0))
        there = published.get(part, (None, None))
        rows.append(
            {
                "part": part,
                "images": images,
                "published_images": there[0],
                "vehicles": vehicles,
                "published_vehicles": there[1],
            }
        )
    return rows


def counts_text(rows: list[dict[str, Any]]) -> str:
    """``rows`` as a small table, empty where nothing is published to compare with."""
    if not any(row["published_images"] or row["published_vehicles"] for row in rows):
        return ""
    heads = ("part", "images", "published", "vehicles", "published")
    columns = ("part", "images", "published_images", "vehicles", "published_vehicles")
    cells = [heads, *(tuple(_cell(row[column]) for column in columns) for row in rows)]
    widths = [max(len(line[number]) for line in cells) for number in range(len(heads))]
    lines = []
    for first, *rest in cells:
        numbers = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *numbers]))
    return "\n".join(lines)


def _cell(value: str | int | None) -> str:
    return f"{value:,}" if isinstance(value, int) else value or "-"
