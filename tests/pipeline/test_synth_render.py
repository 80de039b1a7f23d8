"""Rendered vehicles: pixels and masks agree, follow the viewpoint, and match a ray caster."""

from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest

from pfcvr.pipeline.synth import VehicleAttributes, View, render
from pfcvr.pipeline.synth.attributes import PART_TYPES, Body, Doors, Lights, Mirrors, Roof, choices
from pfcvr.pipeline.synth.parts import body_shape, build
from pfcvr.pipeline.synth.raster import Camera, look_at, rasterise
from pfcvr.pipeline.synth.render import hull

YAWS = (32.0, 148.0, 322.0)
ATTRIBUTES = [(part, field.name) for part, kind in PART_TYPES.items() for field in fields(kind)]


def test_every_part_of_the_vocabulary_has_attributes_of_its_own():
    from pfcvr.records import PARTS

    assert tuple(PART_TYPES) == PARTS


@pytest.mark.parametrize(("part", "attribute"), ATTRIBUTES)
@pytest.mark.parametrize("yaw", YAWS)
def test_changing_one_attribute_changes_pixels_inside_that_part_only(part, attribute, yaw):
    for body in ("hatchback", "MPV"):
        vehicle = VehicleAttributes(body=body, paint="green")
        view = View(yaw=yaw, elevation=24.0)
        before = render(vehicle, view, 96)
        others = [
            value
            for value in choices(part, attribute, body, "green")
            if value != getattr(getattr(vehicle, part), attribute)
        ]
        for value in others:
            changed = replace(vehicle, **{part: replace(getattr(vehicle, part), **{attribute: value})})
            after = render(changed, view, 96)
            different = (before.image != after.image).any(axis=2)
            inside = before.masks[part] | after.masks[part]
            assert not (different & ~inside).any(), value
            assert different.sum() >= 4, value


@pytest.mark.parametrize("body", get_args(Body))
def test_a_change_of_every_part_at_once_stays_inside_the_parts_on_every_body(body):
    plain = VehicleAttributes(body=body, paint="red")
    other = replace(
        plain,
        doors=Doors("two", "chrome", "black", "emblem"),
        mirrors=Mirrors("tall", "chrome"),
        lights=Lights("round", "halo"),
        roof=Roof("box", "black"),
    )
    for yaw in YAWS:
        before, after = (render(v, View(yaw=yaw, elevation=18.0), 96) for v in (plain, other))
        different = (before.image != after.image).any(axis=2)
        inside = np.logical_or.reduce([*before.masks.values(), *after.masks.values()])
        assert different.any()
        assert not (different & ~inside).any()


def test_headlights_are_seen_from_the_front_and_tail_lights_from_behind():
    vehicle = VehicleAttributes(lights=Lights("round", "plain"))
    front = {name for part, name in render(vehicle, View(yaw=0), 128).instances if part == "lights"}
    rear = {name for part, name in render(vehicle, View(yaw=180), 128).instances if part == "lights"}
    assert front == {"front left", "front right"}
    assert rear == {"rear left", "rear right"}


@pytest.mark.parametrize(("yaw", "near", "far"), [(90.0, "left", "right"), (270.0, "right", "left")])
def test_only_the_doors_of_the_near_side_are_seen(yaw, near, far):
    instances = render(VehicleAttributes(), View(yaw=yaw, elevation=8), 128).instances
    doors = {name for part, name in instances if part == "doors"}
    assert doors == {f"{near} 0", f"{near} 1"}


@pytest.mark.parametrize("body", get_args(Body))
def test_wheels_doors_and_lights_vanish_from_straight_above_and_the_roof_from_below(body):
    vehicle = VehicleAttributes(body=body)
    above = render(vehicle, View(yaw=40, elevation=90), 128).masks
    level = render(vehicle, View(yaw=40, elevation=0), 128).masks
    size = above["roof"].size
    assert above["roof"].sum() > 0.02 * size
    assert above["wheels"].sum() < 0.02 * size
    assert level["roof"].sum() < 0.004 * size
    assert level["wheels"].sum() > 0.02 * size
    assert above["doors"].sum() < level["doors"].sum() / 3


def test_a_roof_box_is_seen_from_the_kerb_where_a_sunroof_is_not():
    kerb = View(yaw=90, elevation=2)
    box = render(VehicleAttributes(roof=Roof("box")), kerb, 128).regions
    sunroof = render(VehicleAttributes(roof=Roof("sunroof")), kerb, 128).regions
    assert box["roof.feature"] > 100
    assert sunroof.get("roof.feature", 0) < 20


def test_the_vehicle_shows_perspective_the_nearer_wheel_is_larger():
    instances = render(VehicleAttributes(body="estate"), View(yaw=40, elevation=8), 256).instances
    height = {
        name: np.ptp(np.flatnonzero(mask.any(axis=1))) for (part, name), mask in instances.items() if part == "wheels"
    }
    assert height["left 0"] > 1.1 * height["left 1"]


@pytest.mark.parametrize("size", [32, 100, 384])
def test_the_longer_side_of_the_crop_is_the_size_asked_for_and_the_body_fills_it(size):
    rendered = render(VehicleAttributes(body="truck"), View(yaw=30), size)
    assert max(rendered.image.shape[:2]) == size
    assert rendered.image.dtype == np.uint8
    assert all(mask.shape == rendered.image.shape[:2] for mask in rendered.masks.values())
    covered = np.logical_or.reduce(list(rendered.masks.values()))
    columns = np.flatnonzero(covered.any(axis=0))
    assert columns[-1] - columns[0] > 0.5 * rendered.image.shape[1]


def test_rendering_twice_gives_the_same_pixels():
    vehicle, view = VehicleAttributes(body="bus", paint="blue"), View(yaw=75, texture=9)
    first = render(vehicle, view, 80)
    render(VehicleAttributes(), View(yaw=10), 80)
    assert np.array_equal(first.image, render(vehicle, view, 80).image)


@pytest.mark.parametrize("body", get_args(Body))
def test_the_depth_buffer_agrees_with_a_ray_caster(body):
    vehicle = VehicleAttributes(body=body, roof=Roof("rails"), doors=Doors("four", "chrome", "black", "emblem"))
    solid = build(vehicle)
    points = hull(body_shape(vehicle))
    position, rotation = look_at(37.0, 20.0, 16.0, (points.min(axis=0) + points.max(axis=0)) / 2)
    camera = Camera(position, rotation, 1260.0, (239.5, 191.5))
    numbers, depth = rasterise(solid, camera, 480, 384)
    names = ["none", *(paint.instance[0] if paint.instance else "body" for paint in solid.paints)]
    labels = np.array(names)[numbers]
    # On outlines a pixel decides; compare where the neighbours agree.
    windows = np.lib.stride_tricks.sliding_window_view(labels, (3, 3))
    inner = (windows == windows[:, :, 1:2, 1:2]).all(axis=(2, 3))
    candidates = np.argwhere(inner & (labels[1:-1, 1:-1] != "none")) + 1
    sample = np.random.default_rng(5).choice(candidates, size=100)
    agreed = 0
    for row, column in sample:
        expected = _cast_ray(solid, camera, row, column)
        if expected is not None:
            agreed += names[expected[0] + 1] == labels[row, column] and abs(expected[1] - depth[row, column]) < 0.15
    assert agreed >= 99
    empty = np.argwhere(inner & (labels[1:-1, 1:-1] == "none")) + 1
    assert all(_cast_ray(solid, camera, row, column) is None for row, column in empty[:: len(empty) // 20])


def _cast_ray(solid, camera, row, column):
    """Index and depth of the nearest face hit, layers counted as a lift towards the camera; None for a miss."""
    ray = np.array([(column - camera.centre[0]) / camera.focal, (row - camera.centre[1]) / camera.focal, 1.0])
    ray = ray @ camera.rotation
    best = None
    for index, (face, normal) in enumerate(zip(solid.faces, solid.normals, strict=True)):
        slope = normal @ ray
        if slope >= -1e-9:
            continue
        distance = normal @ (face.mean(axis=0) - camera.position) / slope
        hit = camera.position + distance * ray
        drop = int(np.argmax(np.abs(normal)))
        if distance <= 0 or not _inside(np.delete(face, drop, axis=1), np.delete(hit, drop)):
            continue
        lifted = distance - 0.008 * solid.paints[index].layer
        if best is None or lifted < best[2]:
            best = (index, distance, lifted)
    return best


def _inside(polygon, point):
    """Even-odd rule."""
    result = False
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (a[1] > point[1]) != (b[1] > point[1]):
            x = a[0] + (point[1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
            result ^= bool(point[0] < x)
    return result
