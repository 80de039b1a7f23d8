"""Names of images: every form finds its image, better forms win, and many names take no memory."""

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfcvr.config import PartsConfig
from pfcvr.pipeline import json_stream
from pfcvr.pipeline.detectors.coco import CocoDetector
from pfcvr.pipeline.image_names import ImageNames
from pfcvr.records import ImageRecord


def image(path: str, vehicle_id: str = "v") -> ImageRecord:
    stem = path.split("/")[-1].removesuffix(".jpg")
    facts: dict[str, Any] = {"source": "s", "sha256": "0" * 64, "width": 90, "height": 60}
    return ImageRecord(image_id=f"{vehicle_id}/{stem}", vehicle_id=vehicle_id, path=path, **facts)


@pytest.mark.parametrize(
    "name",
    ["a/1", "images/a/1.jpg", "a/1.jpg", "./a/1.jpg", "images\\a\\1.jpg", "a_1", "a_1.jpg", " a/1 ", "images/a/1"],
)
def test_an_image_is_found_by_each_of_its_names(name: str) -> None:
    images = [image("images/a/1.jpg", "a"), image("images/b/1.jpg", "b")]
    with closing(ImageNames([name, "1.jpg", "2.jpg"], images)) as names:
        assert names.find(name) == "a/1"
        assert (names.find("1.jpg"), names.is_ambiguous("1.jpg")) == (None, True)
        assert (names.find("2.jpg"), names.is_ambiguous("2.jpg")) == (None, False)


PATHS = st.lists(st.sampled_from(["v", "w", "1", "2"]), min_size=1, max_size=3).map(
    lambda parts: "/".join(parts) + ".jpg"
)
IMAGES = st.lists(
    st.builds(image, PATHS, st.sampled_from(["v", "w"])), max_size=6, unique_by=lambda image: image.image_id
)


@given(IMAGES)
def test_the_image_id_wins_then_the_whole_path_then_the_only_image_of_that_name(images: list[ImageRecord]) -> None:
    wanted = {name for one in images for _, name in forms(one)}
    with closing(ImageNames(wanted, images)) as names:
        for name in wanted:
            ranks = {rank for one in images for rank, own in forms(one) if own == name}
            called = {one.image_id for one in images if (min(ranks), name) in forms(one)}
            assert names.find(name) == (called.pop() if len(called) == 1 else None)
            assert names.is_ambiguous(name) == (len(called) > 1)


def forms(one: ImageRecord) -> set[tuple[int, str]]:
    """(rank, name) written out for paths of at most three steps."""
    steps = one.path.split("/")
    ends = {"/".join(steps[start:]) for start in range(len(steps))}
    loose = ends | {end.removesuffix(".jpg") for end in ends} | {f"{one.image_id}.jpg"}
    loose |= {f"{one.vehicle_id}_{steps[-1]}", f"{one.vehicle_id}_{steps[-1].removesuffix('.jpg')}"}
    return {(0, one.image_id), (1, one.path), *((2, name) for name in loose)}


def many(count: int) -> Iterator[ImageRecord]:
    return (image(f"images/{number // 5:05d}/{number:07d}.jpg", f"{number // 5:05d}") for number in range(count))


def peak(work: Any) -> int:
    """Most bytes of Python objects that ``work`` held at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_names() -> None:
    def match(count: int) -> None:
        with closing(ImageNames((one.path for one in many(count)), many(count))) as names:
            assert names.find(f"{count - 1:07d}") is None
            assert names.find(f"images/{(count - 1) // 5:05d}/{count - 1:07d}.jpg") is not None

    match(10)
    assert peak(lambda: match(4000)) < peak(lambda: match(1000)) + 200_000


def test_memory_does_not_grow_with_the_images_of_an_annotation_file(
    build_empty: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "BLOCK_CHARACTERS", 4096)

    def read(count: int) -> Any:
        small = build_empty(tmp_path / str(count))
        small.seal("import", ImageRecord, list(many(count)), {"sources": []})
        path = tmp_path / f"{count}.json"
        images = [{"id": n, "file_name": one.path, "width": 90, "height": 60} for n, one in enumerate(many(count))]
        boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9]} for n in range(count)]
        path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "roof"}]}))

        def detector() -> None:
            with closing(CocoDetector(small.workspace, PartsConfig(annotations=path))) as found:
                assert found.rejected_count == 0

        return detector

    fewer, more = read(500), read(2000)
    fewer()
    assert peak(more) < peak(fewer) + 200_000
