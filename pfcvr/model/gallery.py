"""``pfcvr index``: the features of a set of images, stored with what is needed to search them by sentence.

``GALLERY/`` holds ``features.safetensors`` (float32 [G, D], unit length), ``images.jsonl`` (who is on which row) and
``gallery.json``, written last, which names the run whose model reads the sentences.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pfcvr.config import IndexConfig
from pfcvr.errors import CheckpointError, SealedError
from pfcvr.files import canonical_json, sha256_file, write_json
from pfcvr.model.data import Rows, open_data
from pfcvr.model.device import torch_device, worker_count
from pfcvr.model.encode import encode_images
from pfcvr.model.hub_run import open_run
from pfcvr.model.metrics import Scores, unit_features
from pfcvr.model.retrievers import load_retriever
from pfcvr.model.run_folder import RunFolder
from pfcvr.model.tensors import save_tensors

GALLERY_VERSION = 1
MANIFEST, FEATURES, IMAGES = "gallery.json", "features.safetensors", "images.jsonl"


@dataclass(frozen=True)
class GalleryImage:
    """Who one row of the features is."""

    image_id: str
    vehicle_id: str
    camera_id: str | None


@dataclass(frozen=True)
class Gallery:
    """Unit features [G, D] and their images, the run they are of, and the data set that holds the pixels."""

    features: Scores
    images: list[GalleryImage]
    run: Path
    data: str
    split: str


@dataclass(frozen=True)
class IndexResult:
    """What was indexed; ``already_done`` where the same gallery was there before."""

    gallery: Path
    images: int
    dimensions: int
    already_done: bool

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "gallery": str(self.gallery)}

    def text(self) -> str:
        """One line for people."""
        done = " (already done)" if self.already_done else ""
        return f"{self.gallery}: features of {self.images:,} images, {self.dimensions} numbers each{done}"


def index(config: IndexConfig, quiet: bool = False) -> IndexResult:
    """Encode all images of the split into ``config.out``; the same gallery is not built twice.

    Raises:
        CheckpointError: the run is not finished, or ``config.out`` holds something that is no gallery.
        SealedError: ``config.out`` holds a gallery of other images or another model.
        DataError: the data set has no such split.
    """
    folder = open_run(config.run)
    manifest = folder.finished()
    data = open_data(config.data)
    rows = data.split(config.split)
    identity = {"model_sha256": model_hash(folder), "data_fingerprint": data.fingerprint, "split": config.split}
    if _is_built(config.out, identity):
        found = read_gallery(config.out)
        return IndexResult(config.out, len(found.images), found.features.shape[1], already_done=True)
    retriever = load_retriever(manifest["method"], folder.model, torch_device(config))
    features = unit_features(encode_images(retriever, rows, worker_count(config), quiet))
    facts = {
        "gallery_version": GALLERY_VERSION,
        "identity": identity,
        "run": str(config.run.resolve()),
        "data": str(Path(config.data).resolve()) if Path(config.data).exists() else config.data,
        "split": config.split,
        "images": len(rows),
    }
    _write(config.out, features, rows, facts)
    return IndexResult(config.out, len(rows), features.shape[1], already_done=False)


def read_gallery(folder: Path) -> Gallery:
    """Open what ``index`` wrote.

    Raises:
        CheckpointError: there is no gallery, it is damaged, or its run was moved or trained anew.
    """
    missing = [name for name in (MANIFEST, FEATURES, IMAGES) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: no gallery here ({', '.join(missing)} missing); build one with pfcvr index")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["gallery_version"] > GALLERY_VERSION:
            version = manifest["gallery_version"]
            raise CheckpointError(f"{folder}: made by a newer pfcvr (version {version}); upgrade pfcvr")
        features = load_file(folder / FEATURES)["features"].numpy()
        lines = (folder / IMAGES).read_text(encoding="utf-8").splitlines()
        images = [GalleryImage(**json.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: damaged gallery ({error}); build it again with pfcvr index") from None
    run = RunFolder(Path(manifest["run"]))
    if not run.is_run or model_hash(run) != manifest["identity"]["model_sha256"]:
        raise CheckpointError(
            f"{folder}: the run it was built with, {run.root}, is gone or holds another model; put it back or build "
            "the gallery again with pfcvr index"
        )
    return Gallery(features, images, run.root, manifest["data"], manifest["split"])


def gallery_images(rows: Rows) -> list[GalleryImage]:
    """Who is on each of ``rows``."""
    columns = zip(rows.image_ids, rows.vehicle_ids, rows.camera_ids, strict=True)
    return [GalleryImage(*values) for values in columns]


def model_hash(folder: RunFolder) -> str:
    """SHA-256 of a run's weights; raises CheckpointError when there are none."""
    path = folder.model / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder.root}: no weights in {folder.model.name}; train again in a new folder")
    return sha256_file(path)


def _is_built(out: Path, identity: dict[str, str]) -> bool:
    if not (out / MANIFEST).is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise CheckpointError(f"{out}: exists and is not a gallery; give a new or empty folder with --out")
        return False
    try:
        found = json.loads((out / MANIFEST).read_bytes())["identity"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{out}: damaged gallery; remove the folder and build it again") from None
    if found != identity:
        changed = ", ".join(name for name in identity if found.get(name) != identity[name])
        raise SealedError(
            f"{out}: holds a gallery of something else ({changed} differ); give another folder with --out"
        )
    return True


def _write(out: Path, features: Scores, rows: Rows, facts: dict[str, Any]) -> None:
    """The whole gallery beside ``out``, then renamed: it is there complete or not at all."""
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_tensors({"features": torch.from_numpy(features)}, beside / FEATURES)
    lines = [canonical_json(asdict(image)) + "\n" for image in gallery_images(rows)]
    (beside / IMAGES).write_text("".join(lines), encoding="utf-8")
    write_json(beside / MANIFEST, facts)
    if out.is_dir():
        out.rmdir()
    beside.rename(out)
