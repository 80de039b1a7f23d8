"""A COCO file read as a stream is what the json module reads, wherever the blocks end."""

import json
import sqlite3
from pathlib import Path

import pytest

from pfcvr.errors import SourceError
from pfcvr.pipeline import json_stream
from pfcvr.pipeline.detectors import coco_file

REFUSED = "refused"
VALUES = [
    b"NaN",
    b"-Infinity",
    b'"NaN Infinity 1e5 \\" NaN"',
    b"1e400",
    b"1e99999999999999999999",
    b"-1e-99999999999999999999",
    b"9" * 700,
    b"-0.0",
    b'"\\ud83d\\ude97"',
    b'"\\\\ud800"',
    b'"x\\\\"',
    '"车é🚗"'.encode(),
    b'[1, 2.50, {"a": true, "b": null}]',
    b'{"a": 1, "a": 2}',
    *(b"01", b"1e", b"-", b".5", b"5.", b"truex", b"NaNx", b'"\xff"', b'"a\nb"', b"1]}x", b"9" * 5000),
]


def streamed(path: Path, content: bytes) -> object:
    path.write_bytes(content)
    try:
        return list(coco_file.CocoFile(path, sqlite3.connect("")).items("annotations"))
    except SourceError:
        return REFUSED


def at_once(content: bytes) -> object:
    try:
        return json.loads(content.decode("utf-8-sig"))["annotations"]
    except ValueError:
        return REFUSED


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 16])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value[:24]))
def test_items_are_those_of_the_json_module(tmp_path, monkeypatch, value, block) -> None:
    monkeypatch.setattr(json_stream, "BLOCK_CHARACTERS", block)
    start = b'{"images": [], "categories": [], "annotations": ['
    for content in (start + value + b"]}", b"\xef\xbb\xbf" + start + b"1," + value + b', {"k":' + value + b"}]}"):
        assert repr(streamed(tmp_path / "x.json", content)) == repr(at_once(content))


def test_lists_may_come_in_any_order_beside_others_and_of_equal_keys_the_last_counts(tmp_path) -> None:
    content = b'{"annotations":[1], "annotations.item":5, "x":{"annotations":[7]}, "images":[], '
    content += b'"annotations":[2], "categories":[]}'
    assert streamed(tmp_path / "x.json", content) == at_once(content) == [2]


@pytest.mark.parametrize("half", [b"\\ud800", b"x\\udc00", b"\\ud800\\ud83d\\ude97"])
def test_half_a_surrogate_pair_is_kept_for_the_checks_of_its_annotation(tmp_path, half) -> None:
    content = b'{"images": [], "categories": [], "annotations": ["' + half + b'"]}'
    assert streamed(tmp_path / "x.json", content) == at_once(content)
