"""README.md and LICENSE.md of a published data set, written from measured facts.

The YAML on top is what the Hub and ``load_dataset`` read (huggingface_hub's own card classes write it); every split
names its files one by one, so that a file that somebody else adds is never read as part of it. Text that came with a
source or from the command line is escaped.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pfcvr.pipeline.croissant import split_of
from pfcvr.pipeline.exporters.card import HUB_LICENCES, content_mark, taken_from, terms_of
from pfcvr.pipeline.publication_facts import Named, PublicationFacts
from pfcvr.records import PARTS, Source
from pfcvr.wording import amount

LICENCE_NAME = "LICENSE.md"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MEANINGS = {
    "image": "the bytes of the image file, as imported, with its path inside the source",
    "image_id": "text; names the image inside its source",
    "vehicle_id": "text; a vehicle belongs to one split",
    "camera_id": "text, or none where the source does not say",
    "timestamp": "text, or none where the source does not say",
    "color": "of the vehicle as the source labels it, or none",
    "type": "of the vehicle as the source labels it, or none",
    "model": "of the vehicle as the source labels it, or none",
    "captions": "list of sentences, at least one",
    "part_texts": f"a phrase for each of {', '.join(PARTS)}, or none",
    "attributes": "what the captioner said of color, type and viewpoint, or none",
    "parts": "list of part, box_xyxy (pixels), score (0 to 1), mask (COCO run lengths) or none, flags",
    "part_grid": f"{len(PARTS)} x rows x cols of 0 and 1; axis 0 in the order of part_texts",
    "sha256": "of the image file",
    "path": "of the image file inside the source",
    "bytes": "size of the image file",
    "dhash": "difference hash of the picture, 64 bits in hexadecimal",
    "width": "pixels after EXIF rotation, as are boxes and masks",
    "height": "pixels after EXIF rotation, as are boxes and masks",
}


@dataclass(frozen=True)
class CardFrame:
    """What the card says that is not measured: the repository, the right to publish pixels, and the data files.

    ``files`` are their SHA-256 by name, one split after the other.
    """

    name: str
    right: str | None
    with_images: bool
    files: Mapping[str, str]


def card(facts: PublicationFacts, frame: CardFrame) -> str:
    """The text of README.md."""
    parts = (
        f"---\n{_metadata(facts, frame)}\n---\n",
        f"# {_plain(frame.name)}: text-to-image vehicle retrieval\n",
        _summary(facts, frame),
        _use(frame),
        _counts(facts),
        _columns(facts),
        _grid(facts),
        _how_made(facts),
        _weaknesses(facts),
        _terms(facts, frame),
        _citation(facts, frame),
    )
    return "\n".join(parts)


def licence_text(facts: PublicationFacts, frame: CardFrame) -> str:
    """The text of LICENSE.md: under which terms the sources of the images stand."""
    return f"# Terms of {_plain(frame.name)}\n\n{_terms(facts, frame)}"


def about(facts: PublicationFacts, with_images: bool) -> str:
    """One sentence that says what the data set is."""
    vehicles = sum(split["vehicles"] for split in facts.splits.values())
    captions = sum(split["captions"] for split in facts.splits.values())
    pixels = "with the images" if with_images else "without pixels"
    return (
        f"{amount(captions, 'caption')} and part annotations of {amount(facts.images, 'image')} of "
        f"{amount(vehicles, 'vehicle')}, for finding a vehicle's images by a sentence; published {pixels}."
    )


def licence_of(sources: tuple[Source, ...]) -> str:
    """The Hub's name of the licence that all sources share, else ``other``."""
    stated = {HUB_LICENCES.get((source.licence or "").strip().lower(), "other") for source in sources}
    return stated.pop() if len(stated) == 1 else "other"


def cite_as(facts: PublicationFacts, frame: CardFrame) -> str:
    """A BibTeX entry for the data set."""
    key = re.sub(r"\W+", "-", frame.name)
    listed = ", ".join(dict.fromkeys(source.name for source in facts.sources))
    names = re.sub(r"[{}\\`\s]+", " ", listed)
    note = f"Annotations of images of {names}, made with pfcvr"
    return f"@misc{{{key}, title = {{{frame.name}}}, howpublished = {{Hugging Face Hub}}, note = {{{note}}}}}"


def _metadata(facts: PublicationFacts, frame: CardFrame) -> str:
    from huggingface_hub import DatasetCardData

    by_split: dict[str, list[str]] = {}
    for name in frame.files:
        by_split.setdefault(split_of(name), []).append(name)
    licence = licence_of(facts.sources)
    values: dict[str, Any] = {
        "pretty_name": frame.name,
        "language": "en",
        "license": licence,
        "annotations_creators": _creators(facts, facts.parts_by or facts.captions_by),
        "language_creators": _creators(facts, facts.captions_by),
        "size_categories": next((size for limit, size in SIZES if facts.images < limit), "n>1M"),
        "source_datasets": ["extended"],
        "task_categories": ["image-to-text", *(["image-segmentation"] if facts.grid else [])],
        "tags": ["vehicle-re-identification", "text-to-image-retrieval", "image-text-retrieval", "pfcvr"],
        "configs": [
            {
                "config_name": "default",
                "description": content_mark(frame.files),
                "data_files": [{"split": split, "path": paths} for split, paths in by_split.items()],
            }
        ],
    }
    if licence == "other":
        values |= {"license_name": "terms-of-the-sources", "license_link": LICENCE_NAME}
    if frame.with_images and frame.right is not None:
        values["extra_gated_prompt"] = (
            "The images stand under the terms of their owners, which the card quotes. Whoever is let in agrees to them."
        )
    return str(DatasetCardData(**values).to_yaml())


def _creators(facts: PublicationFacts, origins: dict[Named, int]) -> list[str]:
    by_models = any(dict(origin).get("model") or dict(origin).get("detector_model") for origin in origins)
    creators = ["machine-generated"] if by_models else ["found"]
    return [*creators, "expert-generated"] if facts.reviewed else creators


def _summary(facts: PublicationFacts, frame: CardFrame) -> str:
    lines = [about(facts, frame.with_images)]
    if not frame.with_images:
        lines += [
            "",
            "An image is named by `image_id` and by the SHA-256 of its file. Whoever has the source's images joins",
            "them with `pfcvr-data rebuild`, and gets the data set that can be trained on.",
        ]
    return "\n".join([*lines, ""])


def _use(frame: CardFrame) -> str:
    lines = ["```python", "from datasets import load_dataset", "", f'rows = load_dataset("{frame.name}")', "```", ""]
    if frame.with_images:
        return "\n".join([*lines, f"Train: `pfcvr train --data {frame.name} --out run --recipe tiny`.", ""])
    return "\n".join(lines)


def _counts(facts: PublicationFacts) -> str:
    lines = ["## Splits", "", "No vehicle occurs in two splits.", ""]
    lines += ["| split | images | vehicles | captions |", "|---|---:|---:|---:|"]
    lines += [
        f"| {split} | {n['images']:,} | {n['vehicles']:,} | {n['captions']:,} |" for split, n in facts.splits.items()
    ]
    if facts.words_per_caption is not None:
        lines += ["", f"{facts.words_per_caption:g} words a caption on average."]
    if facts.left_out:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(facts.left_out.items()))
        lines += ["", f"Left out: {amount(sum(facts.left_out.values()), 'image')} of the collection ({reasons})."]
    return "\n".join([*lines, ""])


def _columns(facts: PublicationFacts) -> str:
    lines = [f"- `{name}`: {MEANINGS.get(name, 'see the tool that wrote it')}" for name in facts.columns]
    return "\n".join(["## Columns", "", *lines, ""])


def _grid(facts: PublicationFacts) -> str:
    lines = ["## Parts", ""]
    if facts.grid is None:
        return "\n".join([*lines, "No parts were annotated: `parts` is empty and `part_grid` is all 0.", ""])
    grid = facts.grid
    lines += [
        f"Patch grids have {grid['rows']} rows and {grid['cols']} columns, rule `{grid['rule']}`: the image is",
        f"stretched to the grid; a cell is 1 where the part covers at least {grid['coverage']:g} of it, and a part too",
        "small for any cell keeps its best one.",
    ]
    if facts.coverage is not None:
        lines += ["", "| part | share of images |", "|---|---:|"]
        lines += [f"| {part} | {100 * share:.1f} % |" for part, share in facts.coverage.items()]
    return "\n".join([*lines, ""])


def _how_made(facts: PublicationFacts) -> str:
    lines = ["## How it was made", "", "Captions:", "", *_origins(facts.captions_by)]
    if facts.parts_by:
        lines += ["", "Parts:", "", *_origins(facts.parts_by)]
    review = f"People set or corrected the annotation of {100 * facts.reviewed:.1f} % of the images."
    if not facts.reviewed:
        review = "No review by people is recorded."
    return "\n".join([*lines, "", review, ""])


def _origins(origins: dict[Named, int]) -> list[str]:
    return [
        f"- {amount(count, 'image')}: " + ", ".join(f"{name} `{_code(value)}`" for name, value in origin)
        for origin, count in origins.items()
    ]


def _weaknesses(facts: PublicationFacts) -> str:
    lines = [f"- {_plain(weakness)}" for weakness in facts.weaknesses]
    if facts.captions_by and not facts.reviewed:
        lines.append("- Captions and parts were not checked by people one by one; expect mistakes.")
    return "\n".join(["## Known weaknesses", "", *(lines or ["The check of the data set found none."]), ""])


def _terms(facts: PublicationFacts, frame: CardFrame) -> str:
    lines = ["## Sources and terms", ""]
    for source in facts.sources:
        lines += [
            f"- **{_plain(source.name)}** (layout {_plain(source.format)}), licence: "
            f"{_plain(source.licence or 'not stated')}.",
            f"  {_plain(terms_of(source))}",
            *(f"  {_plain(taken_from(origin))}" for origin in source.taken_from),
        ]
    if frame.with_images and frame.right is not None:
        lines += ["", f"Right to publish the images, as the publisher states it: {_plain(frame.right)}"]
    elif not frame.with_images:
        lines += ["", "The images are not part of this data set; get them from their owners under their terms."]
    return "\n".join([*lines, ""])


def _citation(facts: PublicationFacts, frame: CardFrame) -> str:
    lines = ["## Citation", "", "```bibtex", cite_as(facts, frame), "```", ""]
    return "\n".join([*lines, "Cite the owners of the images too, as their terms ask.", ""])


def _plain(text: str) -> str:
    """``text`` on one line, with nothing that HTML or a Markdown table would take for markup."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|").replace("[", "\\[").replace("`", "\\`")


def _code(text: str) -> str:
    """``text`` on one line, for between backticks."""
    return " ".join(text.split()).replace("`", "'")
