"""``pfcvr search``: the images that answer a sentence best, from a stored gallery or straight from a data set."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pfcvr.config import SearchConfig
from pfcvr.errors import CheckpointError, DataError, UsageError
from pfcvr.model.data import Rows, open_data
from pfcvr.model.device import torch_device, worker_count
from pfcvr.model.encode import encode_images, encode_texts
from pfcvr.model.gallery import MANIFEST, Gallery, gallery_images, read_gallery
from pfcvr.model.hub_run import open_run
from pfcvr.model.metrics import top_rows, unit_features
from pfcvr.model.panel import PanelHit, PanelRow, render_panel
from pfcvr.model.retrievers import Retriever, load_retriever
from pfcvr.model.run_folder import RunFolder


@dataclass(frozen=True)
class Hit:
    """One image of the answer. ``score`` is a cosine; ``right`` is None where the described vehicle is not known."""

    rank: int
    score: float
    image_id: str
    vehicle_id: str
    camera_id: str | None
    right: bool | None


@dataclass(frozen=True)
class SearchResult:
    """The best images for ``query``, best first, out of a gallery of ``gallery`` images.

    ``truncated`` where the query is longer than the model reads; ``rare_words`` are words of it that the captions of
    the training hardly had.
    """

    query: str
    hits: tuple[Hit, ...]
    gallery: int
    panel: Path | None
    truncated: bool
    rare_words: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "panel": None if self.panel is None else str(self.panel)}

    def text(self) -> str:
        """A table for people."""
        lines = [f"{'rank':>4}  {'score':>6}  image"]
        for hit in self.hits:
            camera = f", camera {hit.camera_id}" if hit.camera_id else ""
            verdict = {True: "  (same vehicle)", False: "  (other vehicle)", None: ""}[hit.right]
            lines.append(f"{hit.rank:>4}  {hit.score:>6.3f}  {hit.image_id}  vehicle {hit.vehicle_id}{camera}{verdict}")
        if self.truncated:
            lines.append("the sentence is longer than the model reads; its end was not searched for")
        if self.rare_words:
            lines.append(f"rare or absent in the captions that the model learned from: {', '.join(self.rare_words)}")
        return "\n".join(lines)


def search(config: SearchConfig, quiet: bool = False) -> SearchResult:
    """The ``config.k`` best images for ``config.text``; drawn to ``config.out`` where that is given.

    Raises:
        UsageError: the text is empty, or a run is searched without a data set.
        CheckpointError: ``config.source`` is neither a gallery nor a finished run.
        DataError: the data set cannot be read or does not hold the described image.
    """
    if not config.text.strip():
        raise UsageError(
            "the text to search for is empty; describe a vehicle, for example 'a white SUV with roof rails'"
        )
    retriever, gallery = _open(config, quiet)
    query = unit_features(encode_texts(retriever, [config.text]))[0]
    scores = gallery.features @ query
    best = top_rows(scores, config.k).tolist()
    vehicle_id = _described_vehicle(config, gallery)
    hits = []
    for rank, row in enumerate(best, start=1):
        image = gallery.images[row]
        right = None if vehicle_id is None else image.vehicle_id == vehicle_id
        hits.append(Hit(rank, float(scores[row]), image.image_id, image.vehicle_id, image.camera_id, right))
    if config.out is not None:
        _draw(config, gallery, hits)
    truncated, rare = retriever.truncated([config.text]) > 0, tuple(retriever.rare_words(config.text))
    return SearchResult(config.text, tuple(hits), len(gallery.images), config.out, truncated, rare)


def _open(config: SearchConfig, quiet: bool) -> tuple[Retriever, Gallery]:
    """The model that reads the sentence, and the images it is compared with."""
    if (config.source / MANIFEST).is_file():
        gallery = read_gallery(config.source)
        return _retriever(RunFolder(gallery.run), config), gallery
    folder = open_run(config.source)
    if not folder.is_run:
        raise CheckpointError(
            f"{config.source}: neither a gallery of pfcvr index nor a run of pfcvr train; check the path"
        )
    if config.data is None:
        raise UsageError(
            f"{config.source} is a run: say with --data which images to search, or build a gallery of them"
        )
    rows = open_data(config.data).split(config.split)
    retriever = _retriever(folder, config)
    features = unit_features(encode_images(retriever, rows, worker_count(config), quiet))
    return retriever, Gallery(features, gallery_images(rows), config.source, config.data, config.split)


def _retriever(folder: RunFolder, config: SearchConfig) -> Retriever:
    return load_retriever(folder.finished()["method"], folder.model, torch_device(config))


def _described_vehicle(config: SearchConfig, gallery: Gallery) -> str | None:
    if config.image_id is None:
        return None
    for image in gallery.images:
        if image.image_id == config.image_id:
            return image.vehicle_id
    raise DataError(f"no image '{config.image_id}' among the {len(gallery.images)} searched; check its id")


def _draw(config: SearchConfig, gallery: Gallery, hits: list[Hit]) -> None:
    assert config.out is not None
    rows = open_data(config.data or gallery.data).split(gallery.split)
    place = {image_id: row for row, image_id in enumerate(rows.image_ids)}
    described = None if config.image_id is None else _pixels(rows, place, config.image_id)
    shown = [PanelHit(_pixels(rows, place, hit.image_id), hit.score, hit.image_id, hit.right) for hit in hits]
    render_panel([PanelRow(config.text, shown, described)], config.out)


def _pixels(rows: Rows, place: dict[str, int], image_id: str) -> bytes:
    if image_id not in place:
        raise DataError(f"{rows.where}: no image '{image_id}', which the gallery has; give its data set with --data")
    return rows.image_bytes(place[image_id])
