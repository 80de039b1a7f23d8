"""README.md of an exported data set: which files hold which split, and the facts a reader needs before using it."""

import json
from collections.abc import Iterable, Mapping
from html import escape

from pfcvr.files import sha256_json
from pfcvr.pipeline.exporters import ExportFacts
from pfcvr.records import PARTS, HubOrigin, Source, Split

HUB_LICENCES = {"cc0-1.0": "cc0-1.0", "cc-by-4.0": "cc-by-4.0", "cc by 4.0": "cc-by-4.0", "apache-2.0": "apache-2.0"}
REBUILD = """The images are not in it. Whoever has a copy of them joins the two:

    pfcvr-data rebuild THIS_FOLDER --images YOUR_COPY --out DATASET
"""
PICTURE = (("image", "the bytes of the image file, as imported, with its path inside the source"),)
FOUND_BY = (
    ("path, bytes", "of the image file inside the source, and its size"),
    ("dhash", "difference hash of the picture (64 bits, hexadecimal), to know it again when it was re-encoded"),
)
COLUMNS = (
    ("image_id, vehicle_id", "text; one vehicle belongs to one split"),
    ("camera_id, timestamp, color, type, model", "text, or none where the source does not say"),
    ("captions", "list of sentences, at least one"),
    ("part_texts", f"a phrase for each of {', '.join(PARTS)}, or none"),
    ("attributes", "color, type and viewpoint as the captioner saw them, or none"),
    ("parts", "list of part, box_xyxy (pixels), score (0 to 1), mask (COCO run lengths) or none, flags"),
    ("part_grid", "6 x rows x cols of 0 and 1; axis 0 in the order of part_texts"),
    ("sha256", "of the image file"),
    ("width, height", "pixels after EXIF rotation, as are boxes and masks"),
)


def dataset_card(
    facts: ExportFacts, counts: dict[Split, dict[str, int]], hashes: Mapping[str, str], with_images: bool = True
) -> str:
    """The card: YAML for ``load_dataset`` and the Hub, then what people read. Texts of a source are inert in it.

    ``hashes`` are the SHA-256 of the data files by their names.
    """
    columns = (*PICTURE, *COLUMNS) if with_images else (*COLUMNS, *FOUND_BY)
    sections = [_front_matter(facts, counts, hashes), _counts(counts), _columns(columns), _grid(facts), _sources(facts)]
    if not with_images:
        sections.insert(1, REBUILD)
    return "\n".join(sections)


def content_mark(hashes: Mapping[str, str]) -> str:
    """What tells the data files of these SHA-256, by name, from all others; the ``description`` of a card's config.

    ``datasets`` names what it caches of a folder by the folder's last step and its card's config, not by its files:
    with equal configs, the rows of another data set would come back.
    """
    return f"content {sha256_json(dict(hashes))}"


def _front_matter(facts: ExportFacts, counts: dict[Split, dict[str, int]], hashes: Mapping[str, str]) -> str:
    licences = {(source.licence or "unknown").strip().lower() for source in facts.sources}
    licence = HUB_LICENCES.get(licences.pop(), "other") if len(licences) == 1 else "other"
    lines = ["---", "pretty_name: Text-to-image vehicle retrieval", "language:", "- en", f"license: {licence}"]
    lines += ["configs:", "- config_name: default", f"  description: {content_mark(hashes)}", "  data_files:"]
    for split in counts:
        lines += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    return "\n".join([*lines, "---", "", "# Text-to-image vehicle retrieval", ""])


def _counts(counts: dict[Split, dict[str, int]]) -> str:
    lines = ["Written by `pfcvr-data export`. One row per image; no vehicle occurs in two splits.", ""]
    lines += ["| split | images | vehicles | captions |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {n['images']} | {n['vehicles']} | {n['captions']} |" for name, n in counts.items()]
    return "\n".join([*lines, ""])


def _columns(columns: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["## Columns", "", *(f"- `{name}`: {meaning}" for name, meaning in columns), ""])


def _grid(facts: ExportFacts) -> str:
    grid = facts.grid
    lines = ["## Patch grid", ""]
    if facts.has_parts:
        lines += [
            f"{grid.rows} rows x {grid.cols} columns, rule `{grid.rule}`: the image is stretched to the grid;",
            f"a cell is 1 where the part covers at least {grid.coverage:g} of it, and a part too small for any",
            "cell keeps its best one.",
        ]
    else:
        lines += ["No parts were annotated: `parts` is empty and `part_grid` is all 0."]
    return "\n".join([*lines, ""])


def _sources(facts: ExportFacts) -> str:
    lines = ["## Sources and terms", ""]
    for source in facts.sources:
        name = _inert(json.dumps(source.name, ensure_ascii=False))
        lines += [
            f"- {name} ({source.format}), licence: {_inert(source.licence or 'not stated')}.",
            f"  {_inert(terms_of(source))}",
            *(f"  {_inert(taken_from(origin))}" for origin in source.taken_from),
        ]
    return "\n".join([*lines, ""])


def terms_of(source: Source) -> str:
    """The terms as sentences, and whether they let the images of ``source`` be published."""
    terms = " ".join(source.terms.split()) or "No terms were recorded."
    stop = "" if terms.endswith((".", "!", "?")) else "."
    pixels = "allows" if source.redistribute_images else "is not known to allow"
    return f"{terms}{stop} The source {pixels} publishing its images."


def taken_from(origin: HubOrigin) -> str:
    """A sentence about a data set on the Hub that something came from."""
    licence = origin.licence or "not stated"
    return f"Taken from {origin.repository} on the Hub, commit {origin.commit}; licence by its card: {licence}."


def _inert(text: str) -> str:
    """``text`` on one line, without anything that HTML or Markdown would act on."""
    escaped = escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "`*_[]!|#" else letter for letter in escaped)
