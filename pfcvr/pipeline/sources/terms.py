"""What a source's owner allows, as far as the source or its layout tells."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pfcvr.errors import SourceError
from pfcvr.pipeline.sources.hub_set import HubSet
from pfcvr.records import HubOrigin, Source

DESCRIPTION = "source.json"
MANIFEST, KIND = "pfcvr.json", "pfcvr-dataset"

VERI_WILD_TERMS = (
    "VERI-Wild is lent for non-commercial research and education; whoever receives it may not hand the images on or "
    "publish them, and access can be withdrawn. Annotations may name its images; the pixels stay with their owners."
)
RESEARCH_ONLY = "research use only, no redistribution of images"
OF_VERI = "Its pixels come from VeRi-776, lent for research only and not to be distributed."
OF_VERI_WILD = "Its pixels come from VERI-Wild, lent for non-commercial research and not to be handed on."
KNOWN_TERMS = {
    "veri-wild": ("non-commercial research, no redistribution", VERI_WILD_TERMS),
    "veri-wild-2": ("non-commercial research, no redistribution", VERI_WILD_TERMS),
    "veri-776": (
        RESEARCH_ONLY,
        "VeRi-776 is sent on request for research only; it may not be distributed or used commercially.",
    ),
    "vehicleid": (RESEARCH_ONLY, "VehicleID is for research only."),
    "vric": (RESEARCH_ONLY, "VRIC is for research only; the rights in its pixels stay with the owners of UA-DETRAC."),
    "t2i-veri": (
        RESEARCH_ONLY,
        f"T2I-VeRI has a research-only licence that asks for attribution (MMIC Group, 2025). {OF_VERI}",
    ),
    "t2i-verw": ("data terms not stated, treated as research only", f"T2I-VeRW states no data terms. {OF_VERI_WILD}"),
    "mvp": (
        "annotations to be cited, images with their owners",
        "MVP ships annotations alone; its images stay with the owners of VERI-Wild, VeRi-776 and AI City.",
    ),
}


def read_terms(root: Path, layout: str) -> Source:
    """The source's name and terms: from ``source.json``, from the manifest of an export, else what is known of the
    layout and the name of the licence from a LICENSE file: one that lies there, as that of a checkout, does not lift
    the terms of a known collection.

    Pixels count as not redistributable unless one of the first two says so. Raises SourceError for a damaged
    source.json.
    """
    described = root / DESCRIPTION
    if described.is_file():
        return _from_description(described, root, layout)
    exported = described_by_manifest(root / MANIFEST)
    if exported:
        return Source(
            name=exported["name"],
            root=str(root),
            format=layout,
            licence=exported.get("licence"),
            terms=exported["description"],
            redistribute_images=exported["redistribute_images"],
            taken_from=tuple(map(HubOrigin.model_validate, exported["taken_from"])),
        )
    licence, terms = KNOWN_TERMS.get(layout, (None, ""))
    for path in sorted(root.glob("LICEN[SC]E*")):
        if path.is_file():
            first_line = next(filter(None, map(str.strip, path.read_text("utf-8", "replace").splitlines())), "empty")
            licence = f"see {path.name}: {first_line}"
            break
    return Source(name=layout, root=str(root), format=layout, licence=licence, terms=terms)


def terms_files(root: Path) -> list[Path]:
    """The files that ``read_terms`` may read."""
    return [path for path in [root / DESCRIPTION, root / MANIFEST, *sorted(root.glob("LICEN[SC]E*"))] if path.is_file()]


def described_by_manifest(path: Path) -> dict[str, Any]:
    """What the manifest of an export says of its sources, as source.json would; empty where it is none, or damaged."""
    try:
        manifest: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return _merged(manifest) if isinstance(manifest, dict) and manifest.get("kind") == KIND else {}


def described_on_hub(there: HubSet) -> dict[str, Any]:
    """What is known of a data set on the Hub, as source.json would say it: by its manifest, else by its card."""
    described = _merged(there.manifest)
    origin = there.origin
    by_card = {"name": origin.repository} | ({"licence": origin.licence} if origin.licence else {})
    said = [described.get("description", ""), there.terms]
    chain = [*described.get("taken_from", []), origin.model_dump()]
    return by_card | described | {"description": " ".join(filter(None, said)), "taken_from": chain}


def _merged(manifest: dict[str, Any]) -> dict[str, Any]:
    """The sources of an export as one; empty where the manifest names none."""
    listed = manifest.get("sources")
    sources = [own for own in listed if isinstance(own, dict)] if isinstance(listed, list) else []
    if not sources:
        return {}
    licences = dict.fromkeys(str(own["licence"]) for own in sources if own.get("licence"))
    origins = (origin for own in sources for origin in _origins(own.get("taken_from")) or ())
    return {
        "name": " + ".join(str(own.get("name")) for own in sources),
        **({"licence": "; ".join(licences)} if licences else {}),
        "redistribute_images": all(own.get("redistribute_images") is True for own in sources),
        "description": " ".join(dict.fromkeys(str(own["terms"]) for own in sources if own.get("terms"))),
        "taken_from": [origin.model_dump() for origin in dict.fromkeys(origins)],
    }


def _origins(listed: Any) -> tuple[HubOrigin, ...] | None:
    """The data sets in a ``taken_from``; None where it is no list of such."""
    try:
        return TypeAdapter(tuple[HubOrigin, ...]).validate_python(listed)
    except ValidationError:
        return None


def _from_description(path: Path, root: Path, layout: str) -> Source:
    expected = "an object with the texts name and licence and the boolean redistribute_images"
    try:
        description: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise SourceError(
            f"{path}: not valid JSON ({error}); expected {expected}, correct or remove the file"
        ) from None
    description = description if isinstance(description, dict) else {}
    name, licence = description.get("name"), description.get("licence")
    redistribute, about = description.get("redistribute_images", False), description.get("description", "")
    if not (isinstance(name, str) and name and isinstance(licence, str) and licence and isinstance(about, str)):
        raise SourceError(f"{path}: name or licence is missing or not text; expected {expected}, correct the file")
    if not isinstance(redistribute, bool):
        raise SourceError(f"{path}: redistribute_images is {redistribute!r}; expected {expected}, correct the file")
    origins = _origins(description.get("taken_from", []))
    if origins is None:
        raise SourceError(
            f"{path}: taken_from is no list of objects with repository and commit; correct the file or leave it out"
        )
    return Source(
        name=name,
        root=str(root),
        format=layout,
        licence=licence,
        terms=about,
        redistribute_images=redistribute,
        taken_from=origins,
    )
