"""croissant.json of a published data set: MLCommons' description of its files and columns, for tools without the Hub.

Version 1.0 of the format. File names are relative to the description, so that a copy on disk is readable offline.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "croissant.json"
NUMBERS = ("width", "height")
LISTS = ("captions",)
TEXTS = ("image_id", "vehicle_id", "camera_id", "timestamp", "color", "type", "model", "sha256")
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


@dataclass(frozen=True)
class Described:
    """What the description says: ``files`` are Parquet files by name with their SHA-256, in the order of splits."""

    name: str
    about: str
    licence: str
    cite_as: str
    version: str
    url: str
    files: dict[str, str]
    columns: tuple[str, ...]


def describe(facts: Described) -> str:
    """The text of croissant.json."""
    splits = list(dict.fromkeys(split_of(name) for name in facts.files))
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts.name,
        "description": facts.about,
        "license": facts.licence,
        "citeAs": facts.cite_as,
        "version": facts.version,
        "url": facts.url,
        "distribution": [_file_object(name, digest) for name, digest in facts.files.items()]
        + [_file_set(split) for split in splits],
        "recordSet": [_record_set(split, facts.columns) for split in splits],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def split_of(name: str) -> str:
    """The split that a file such as ``data/train-00000-of-00001.parquet`` belongs to."""
    return Path(name).name.partition("-")[0]


def _file_object(name: str, digest: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": "application/x-parquet",
        "sha256": digest,
    }


def _file_set(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{split}-files",
        "name": f"{split}-files",
        "encodingFormat": "application/x-parquet",
        "includes": f"data/{split}-*.parquet",
    }


def _record_set(split: str, columns: tuple[str, ...]) -> dict[str, Any]:
    known = [name for name in (*TEXTS, *LISTS, *NUMBERS) if name in columns]
    more = [name for name in columns if name not in known]
    nested = f" The files also hold {', '.join(more)}; README.md says how they are laid out." if more else ""
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"One record for each image of the split {split}.{nested}",
        "key": {"@id": f"{split}/image_id"},
        "field": [_field(split, name) for name in known],
    }


def _field(split: str, name: str) -> dict[str, Any]:
    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{split}/{name}",
        "name": name,
        "dataType": "sc:Integer" if name in NUMBERS else "sc:Text",
        "source": {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": name}},
    }
    return {**field, "repeated": True} if name in LISTS else field
