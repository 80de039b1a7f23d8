"""``pfcvr eval``: a run measured by the field's protocol, with the controls that show what it is worth.

Every caption is a query, every image of the split stands in the gallery once, a hit is the same vehicle, the described
image itself included. Beside that: the same without the described image, Rank-1 among near-twins where their families
are known, and captions handed to other vehicles, which must fall to chance.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pfcvr.config import EvalConfig
from pfcvr.errors import DataError, SourceError
from pfcvr.files import write_json
from pfcvr.model.data import Rows, open_data
from pfcvr.model.device import torch_device, worker_count
from pfcvr.model.encode import Encoded, encode_split
from pfcvr.model.evaluations import data_title, evaluation_name, evaluation_path, notes_on_data, notes_on_run
from pfcvr.model.figures import draw_figures
from pfcvr.model.hub_run import open_run
from pfcvr.model.metrics import Labels, RetrievalMetrics, cosine_blocks, feature_metrics, label_numbers, tied_top
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.query_results import query_results_path, write_query_results
from pfcvr.model.retrievers import load_retriever
from pfcvr.model.trained_on import read_trained_on, trained_on_sentence

TITLES = ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP")
NAMES = ("rank1", "rank5", "rank10", "mAP", "mINP")
CHANCE = NAMES[:4]  # of mINP no expectation is printed


def evaluate(config: EvalConfig, quiet: bool = False) -> dict[str, Any]:
    """Measure a finished run on ``config.split``; also written to ``RUN/eval-<split>.json``, and what each query
    reached to ``RUN/queries-<split>.jsonl``, or to files of their own on another data set than the run was trained on
    (``pfcvr.model.evaluations``).

    Returns:
        ``run, method, variant, protocol, seed, split, data, data_fingerprint, own_data, queries, truncated_captions,
        gallery, duplicates, best_step``; ``metrics``, ``without_own_image`` and ``permuted`` with rank1, rank5, rank10,
        mAP, mINP in percent; ``trapezoid_mAP``, mAP as Market-1501's evaluator counts it; ``chance`` with rank1, rank5,
        rank10 and mAP; ``trained_on`` with the numbers of images and vehicle_ids that the run was trained on, None
        where that is not known; ``family`` with rank1, chance_rank1, queries, skipped where a truth file is given;
        ``figures`` with files and notes where pictures were asked for.

    Raises:
        CheckpointError: the run is not finished or cannot be read.
        DataError: the data set has no such split, or nothing in it to search for.
        SourceError: the truth file cannot be read or does not know a vehicle.
    """
    folder = open_run(config.run)
    manifest = folder.finished()
    data = open_data(config.data)
    rows = data.split(config.split)
    if not any(rows.captions):
        raise DataError(f"{config.data}: no image of split '{config.split}' has a caption to search with")
    families = None if config.truth is None else _families(config.truth, rows)
    retriever = load_retriever(manifest["method"], folder.model, torch_device(config))
    trained_on = read_trained_on(folder.root)
    encoded = encode_split(retriever, rows, worker_count(config), quiet)
    by_query = encoded.query_metrics()
    measured = by_query.means()
    result: dict[str, Any] = {
        "run": str(config.run),
        **{name: manifest[name] for name in ("method", "variant", "protocol", "seed", "best_step", "selection")},
        "split": config.split,
        "data": config.data,
        "data_fingerprint": data.fingerprint,
        "own_data": data.fingerprint == manifest.get("data"),
        "trained_on": None if trained_on is None else trained_on.shared_with(rows),
        "metrics": _named(measured),
        "trapezoid_mAP": measured.trapezoid_mAP,
        "chance": {name: getattr(measured, f"chance_{name}") for name in CHANCE},
        "queries": measured.queries,
        "truncated_captions": retriever.truncated([text for texts in rows.captions for text in texts]),
        "gallery": len(rows),
        "identities": len(set(rows.vehicle_ids)),
        "duplicates": rows.duplicates(),
        "without_own_image": _without_own_image(encoded),
        "permuted": permuted_metrics(encoded, int(manifest["seed"])),
    }
    if families is not None:
        result["family"] = family_metrics(encoded, families, _cameras(rows))
    name = evaluation_name(config.split, data.fingerprint, manifest.get("data"))
    write_query_results(query_results_path(folder.root, name), rows, by_query)
    write_json(evaluation_path(folder.root, name), result)
    if config.figures is not None:
        model = PfcvrModel.from_pretrained(folder.model)
        figures = draw_figures(config.figures, model, rows, encoded, int(manifest["seed"]), data.coverage)
        result["figures"] = figures.as_dict()
    return result


def warnings(result: dict[str, Any]) -> list[str]:
    """What is to be said at once of ``result`` of ``evaluate``: that the run was trained on what it was measured on."""
    sentence = trained_on_sentence(result["run"], result)
    return [] if sentence is None else [sentence]


def text(result: dict[str, Any]) -> str:
    """``result`` of ``evaluate`` as a table for people, chance and controls beside the metrics."""
    head = (
        f"{result['run']} on {result['split']} of {data_title(result)}: {result['queries']:,} queries, "
        f"{result['gallery']:,} images of {result['identities']:,} vehicles; method {result['method']}, "
        f"variant {result['variant']}, protocol {result['protocol']}, seed {result['seed']}"
    )
    lines = [head, " " * 20 + "".join(f"{title:>9}" for title in TITLES)]
    for title, values in (
        ("model", result["metrics"]),
        ("without own image", result["without_own_image"]),
        ("captions permuted", result["permuted"]),
        ("chance", result["chance"]),
    ):
        cells = [f"{values[name]:>9.1f}" if name in values else " " * 9 for name in NAMES] if values else ["  not here"]
        lines.append(f"{title:<20}" + "".join(cells))
    lines += notes_on_data(result["run"], result) + notes_on_run(result["run"], [result])
    if result["truncated_captions"]:
        cut, queries = result["truncated_captions"], result["queries"]
        lines.append(f"{cut:,} of {queries:,} captions are longer than the model reads and were cut")
    if "family" in result:
        family = result["family"]
        lines.append(
            f"Rank-1 among near-twins, across cameras {family['rank1']:.1f} (chance {family['chance_rank1']:.1f}, "
            f"{family['queries']:,} queries, {family['skipped']:,} without a twin here skipped)"
        )
    if "figures" in result:
        lines += [f"picture: {path}" for path in result["figures"]["files"]] + result["figures"]["notes"]
    return "\n".join(lines)


def permuted_metrics(encoded: Encoded, seed: int) -> dict[str, float] | None:
    """The control: every vehicle's captions are judged as if written about another vehicle, drawn by ``seed``.

    A model that answers from the sentence must fall to about chance. None where there is only one vehicle.
    """
    labels = np.unique(encoded.gallery_labels)
    if len(labels) < 2:
        return None
    order = np.random.default_rng(seed).permutation(labels)
    # One cycle through all vehicles: nobody keeps the own captions.
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    claimed = np.array([other[label] for label in encoded.query_labels.tolist()], dtype=np.int64)
    return _named(feature_metrics(encoded.queries, encoded.gallery, claimed, encoded.gallery_labels).means())


def family_metrics(encoded: Encoded, families: Labels, cameras: Labels) -> dict[str, float]:
    """Rank-1 in percent when only the images of the vehicle's family are searched, across cameras.

    ``families`` and ``cameras`` [G] number the family and the camera of each gallery image. The described image is left
    out, and with it all images by its camera: a sentence that mentions the view would find a twin seen from there
    before the vehicle itself seen from elsewhere. Queries that leave nothing right or nothing wrong to find are skipped
    and counted. Ties count against the query.
    """
    hits: list[bool] = []
    chances: list[float] = []
    for query, scores in enumerate(row for block in cosine_blocks(encoded.queries, encoded.gallery) for row in block):
        own, label = encoded.own_image[query], encoded.query_labels[query]
        members = np.flatnonzero((families == families[own]) & (cameras != cameras[own]))
        relevant = encoded.gallery_labels[members] == label
        if not relevant.any() or relevant.all():
            continue
        hits.append(tied_top(scores[members], relevant))
        chances.append(float(relevant.mean()))
    skipped = len(encoded.queries) - len(hits)
    rank1, chance = (100 * float(np.mean(values)) if values else 0.0 for values in (hits, chances))
    return {"rank1": rank1, "chance_rank1": chance, "queries": len(hits), "skipped": skipped}


def _without_own_image(encoded: Encoded) -> dict[str, float] | None:
    """Metrics with the described image out of the gallery; None where no vehicle has a second image."""
    counts = np.bincount(encoded.gallery_labels)
    if not (counts[encoded.query_labels] > 1).any():
        return None
    measured = feature_metrics(
        encoded.queries, encoded.gallery, encoded.query_labels, encoded.gallery_labels, encoded.own_image
    ).means()
    return _named(measured) | {"queries": measured.queries, "skipped": measured.skipped}


def _named(measured: RetrievalMetrics) -> dict[str, float]:
    values = asdict(measured)
    return {name: values[name] for name in NAMES}


def _families(path: Path, rows: Rows) -> Labels:
    """Family number of each image of ``rows``, from lines of JSON with ``vehicle_id`` and ``family_id``."""
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        family_of = {str(record["vehicle_id"]): str(record["family_id"]) for record in records}
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such truth file; check the path") from None
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path}: not a truth file ({error}); expected JSON lines with vehicle_id and family_id, as synth writes"
        ) from None
    unknown = next((vehicle_id for vehicle_id in rows.vehicle_ids if vehicle_id not in family_of), None)
    if unknown is not None:
        raise SourceError(f"{path}: knows no family of vehicle '{unknown}'; give the truth file of this data set")
    numbers = {family: number for number, family in enumerate(sorted(set(family_of.values())))}
    return np.array([numbers[family_of[vehicle_id]] for vehicle_id in rows.vehicle_ids], dtype=np.int64)


def _cameras(rows: Rows) -> Labels:
    """Camera number of each image of ``rows``; an image whose camera is not known has one of its own."""
    return label_numbers(
        [camera or f"image {image}" for camera, image in zip(rows.camera_ids, rows.image_ids, strict=True)]
    )
