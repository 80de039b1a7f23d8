"""A folder of rendered vehicles in the layout of VERI-Wild, with captions, part masks and truth beside it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfcvr.config import SynthConfig
from pfcvr.errors import SourceError
from pfcvr.files import disk_full_stops, process_lock, write_json
from pfcvr.pipeline.synth import annotations
from pfcvr.pipeline.synth.attributes import (
    FAMILY_SIZE,
    PART_TYPES,
    VERI_WILD_TYPE,
    family,
    stream,
)
from pfcvr.pipeline.synth.captions import PART_SHARE, Sight, long_caption, part_phrases, short_caption
from pfcvr.pipeline.synth.render import View, render
from pfcvr.pipeline.synth.stations import STATIONS, draw_view, photograph

VERSION = "1"
UNFINISHED = ".synth-partial"
FINISHED = "source.json"
OURS = ("images", "train_test_split", "captions.jsonl", "parts.coco.json", "truth.jsonl", "LICENSE.txt")
HEADER = "id/image;Camera ID;Time;Model;Type;Color"


@dataclass(frozen=True)
class SynthSummary:
    """What lies under ``path``."""

    images: int
    vehicles: int
    cameras: int
    path: str


@dataclass
class Rows:
    """Lines of every file, collected while the pictures are written."""

    info: list[str]
    captions: list[str]
    images: list[str]
    annotations: list[str]
    truth: list[str]
    names: list[list[str]]


def generate(out: Path, config: SynthConfig, progress: Callable[[int], None] | None = None) -> SynthSummary:
    """Render ``config.identities`` vehicles into ``out``; ``progress`` is told of every finished image.

    The same configuration gives the same bytes, and more identities leave the earlier ones as they are. A finished
    folder of the same configuration is left alone, an unfinished one of ours is started over.

    Raises:
        SourceError: ``out`` holds something else, or vehicles of another configuration.
        LockedError: another process is rendering into ``out``.
        StageStopped: the disk is full.
    """
    source = _source(config)
    used = {place for vehicle in range(config.identities) for place in _cameras(config, vehicle)}
    images = config.identities * config.images_per_identity
    summary = SynthSummary(images, config.identities, len(used), str(out))
    if _is_finished(out, source):
        if progress:
            progress(summary.images)
        return summary
    out.mkdir(parents=True, exist_ok=True)
    with disk_full_stops("synth"), process_lock(out / UNFINISHED, "rendering vehicles there"):
        for name in OURS:
            _remove(out / name)
        rows = Rows([HEADER], [], [], [], [], [])
        for vehicle in range(config.identities):
            _write_vehicle(out, config, vehicle, rows, progress)
        _write_files(out, rows)
        write_json(out / FINISHED, source)
        (out / UNFINISHED).unlink()
    return summary


def _source(config: SynthConfig) -> dict[str, Any]:
    return {
        "name": "pfcvr-synth",
        "version": VERSION,
        "licence": annotations.LICENCE,
        "redistribute_images": True,
        "description": annotations.DESCRIPTION,
        "generator": config.model_dump(),
    }


def _is_finished(out: Path, source: dict[str, Any]) -> bool:
    """Whether ``out`` is complete; raises SourceError when it is neither ours nor empty."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise SourceError(f"{out}: a file is in the way of the folder for rendered vehicles; name another folder")
    if (out / FINISHED).exists():
        try:
            found = json.loads((out / FINISHED).read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found == source:
            return True
        raise SourceError(
            f"{out}: holds a data set made with other settings ({FINISHED} tells which), and it is not replaced; "
            "name another folder or delete this one"
        )
    if not (out / UNFINISHED).exists() and any(out.iterdir()):
        raise SourceError(
            f"{out}: the folder is not empty and was not made by pfcvr-data synth; name a new or empty folder"
        )
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _cameras(config: SynthConfig, vehicle: int) -> list[int]:
    """The station of each image of a vehicle: all of them in random order before any comes again."""
    order = stream(config.seed, 2, vehicle).permutation(len(STATIONS))
    return [int(order[k % len(STATIONS)]) for k in range(config.images_per_identity)]


def _write_vehicle(
    out: Path, config: SynthConfig, vehicle: int, rows: Rows, progress: Callable[[int], None] | None
) -> None:
    attributes = family(config.seed, vehicle // FAMILY_SIZE)[vehicle % FAMILY_SIZE]
    vehicle_id = f"{vehicle + 1:05d}"
    folder = out / "images" / vehicle_id
    folder.mkdir(parents=True)
    stations = [STATIONS[place] for place in _cameras(config, vehicle)]
    times = annotations.timestamps(config.seed, vehicle, config.images_per_identity)
    names, shots = [], []
    for k, station in enumerate(stations):
        number = vehicle * config.images_per_identity + k + 1
        image_id = f"{number:06d}"
        view = draw_view(station, stream(config.seed, 3, vehicle, k, 0))
        rendered = render(attributes, view, config.size)
        jpeg = photograph(rendered.image, station, stream(config.seed, 3, vehicle, k, 1))
        (folder / f"{image_id}.jpg").write_bytes(jpeg)
        sight = Sight.of(attributes, rendered, view, station)
        rows.captions.append(_caption_row(config.seed, (vehicle, k), image_id, sight))
        annotated = annotations.instance_annotations(rendered, number, len(rows.annotations) + 1)
        rows.annotations += [json.dumps(row) for row in annotated]
        rows.images.append(_image_row(number, vehicle_id, station.camera_id, rendered.image.shape))
        kind = VERI_WILD_TYPE[attributes.body]
        name = f"{vehicle_id}/{image_id}"
        rows.info.append(f"{name};{station.camera_id};{times[k]};Rendered {attributes.body};{kind};{attributes.paint}")
        names.append(name)
        shots.append(_shot(image_id, station.camera_id, view, sight))
        if progress:
            progress(1)
    rows.names.append(names)
    rows.truth.append(
        json.dumps(
            {
                "vehicle_id": vehicle_id,
                "family_id": f"{vehicle // FAMILY_SIZE + 1:05d}",
                "attributes": attributes.to_dict(),
                "images": shots,
            }
        )
    )


def _caption_row(seed: int, place: tuple[int, int], image_id: str, sight: Sight) -> str:
    vehicle, k = place
    spoken = [stream(seed, 3, vehicle, k, draw) for draw in (2, 3, 4)]
    row = {
        "image_id": image_id,
        "vehicle_id": f"{vehicle + 1:05d}",
        "captions": [long_caption(sight, spoken[0]), short_caption(sight, spoken[1])],
        "part_texts": part_phrases(sight, spoken[2]),
    }
    return json.dumps(row)


def _image_row(number: int, vehicle_id: str, camera_id: int, shape: tuple[int, ...]) -> str:
    image_id = f"{number:06d}"
    row = {
        "id": number,
        "file_name": f"{vehicle_id}/{image_id}.jpg",
        "width": shape[1],
        "height": shape[0],
        "license": 1,
        "image_id": image_id,
        "vehicle_id": vehicle_id,
        "camera_id": camera_id,
    }
    return json.dumps(row)


def _shot(image_id: str, camera_id: int, view: View, sight: Sight) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "camera_id": camera_id,
        "yaw": round(view.yaw, 2),
        "elevation": round(view.elevation, 2),
        "visible": [part for part in PART_TYPES if sight.parts[part] >= PART_SHARE],
    }


def _write_files(out: Path, rows: Rows) -> None:
    def write(name: str, lines: list[str]) -> None:
        (out / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    (out / "train_test_split").mkdir()
    write("train_test_split/vehicle_info.txt", rows.info)
    for name, lines in annotations.list_files(rows.names).items():
        write(f"train_test_split/{name}", lines)
    write("captions.jsonl", rows.captions)
    write("truth.jsonl", rows.truth)
    (out / "parts.coco.json").write_text(
        annotations.coco_text(rows.images, rows.annotations, year=2000), encoding="utf-8"
    )
    (out / "LICENSE.txt").write_text(annotations.LICENCE_TEXT, encoding="utf-8")
