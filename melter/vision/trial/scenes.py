"""Cases of each kind: stills with a patch, saturated, partly hidden, with sparkles, empty; and films."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from melter.machine import Machine
from melter.vision.trial.camera import Pinhole
from melter.vision.trial.light import Array, Lens, Patch, lens_for, trace
from melter.vision.trial.sensor import Curve, Picture, Sensor
from melter.vision.trial.stage import Bar, Moment, Sand, Stage, Track

KINDS = ("clear", "saturated", "hidden", "sparkles", "glass", "reflection", "dim")
"""Stills that show a patch."""
EMPTY_KINDS = ("empty dark", "empty bright", "empty glass")
"""Stills that show none."""
CURVES: tuple[Curve, ...] = ("srgb", "srgb", "srgb", "power", "shoulder")
FULLY_HIDDEN = 0.97
MARKERS_IN_VIEW = 3
HIDDEN = (0.08, 0.60)
"""Share of a partly hidden patch's light."""


@dataclass(frozen=True, eq=False)
class Still:
    """A picture and the truth about it."""

    kind: str
    picture: Picture
    t_s: float
    centre_m: Array | None
    """(2,) centroid of the irradiance; None where no patch can be seen."""
    moments_m2: Array | None
    hidden: float
    """Share of the patch's light that is hidden."""


@dataclass(frozen=True, eq=False)
class Place:
    """A camera over a bed, with its parked reference picture."""

    machine: Machine
    stage: Stage
    sensor: Sensor
    sun: Array
    reference: Picture
    seed: int


def make_place(machine: Machine, seed: int, size_px: tuple[int, int] = (1280, 720)) -> Place:
    """Return a place drawn at random: distance 2.9 to 4.2 m, elevation 25 to 52 degrees, any azimuth, any daytime sun."""
    rng = np.random.default_rng(seed)
    camera = _camera(rng, size_px)
    while sum(_in_view(camera, marker.centre_m, marker.size_m) for marker in machine.bed.marker) < MARKERS_IN_VIEW:
        camera = _camera(rng, size_px)
    zenith = rng.uniform(0, np.radians(40))
    away = np.arctan2(camera.position_m[0], camera.position_m[1]) + np.pi + rng.uniform(-1.2, 1.2)
    sun = np.array([np.sin(zenith) * np.sin(away), np.sin(zenith) * np.cos(away), np.cos(zenith)])
    sand = Sand(rng.uniform(0, 0.0015), rng.uniform(0.04, 0.16), int(rng.integers(1 << 30)))
    stage = Stage(machine, camera, sand)
    scale = size_px[0] / 1280
    sensor = Sensor(
        blur_px=scale * rng.uniform(0.5, 1.0),
        flare=rng.uniform(0.003, 0.04),
        flare_px=scale * rng.uniform(4, 12),
        vignette=rng.uniform(0, 0.3),
        curve=CURVES[int(rng.integers(len(CURVES)))],
        jpeg=None if rng.random() < 0.3 else int(rng.integers(80, 97)),
        gains=(rng.uniform(1.0, 1.4), 1.0, rng.uniform(0.8, 1.0)),
    )
    parked = _parked(machine, sun, rng, sand)
    moment = Moment(sun=sun, patches=(parked[1],), lens=parked[0])
    light = sensor.spread(stage.light(moment)[0])
    reference = sensor.expose(light, 0.55 / 0.27 * rng.uniform(0.5, 0.9), rng)
    return Place(machine, stage, sensor, sun, reference, seed)


def _in_view(camera: Pinhole, centre_m: tuple[float, float], size_m: float) -> bool:
    ring = np.array([[centre_m[0] + a * size_m, centre_m[1] + b * size_m, 0.0] for a in (-1, 1) for b in (-1, 1)])
    px = camera.pixels(ring)
    return bool((px > 0).all() and (px < (camera.width_px, camera.height_px)).all())


def _camera(rng: np.random.Generator, size_px: tuple[int, int]) -> Pinhole:
    distance, elevation = rng.uniform(2.9, 4.2), np.radians(rng.uniform(25, 52))
    azimuth = rng.uniform(0, 2 * np.pi)
    flat = distance * np.cos(elevation)
    place = (flat * np.sin(azimuth), flat * np.cos(azimuth), distance * np.sin(elevation))
    target = tuple(rng.normal(0, 0.06, 3) * (1, 1, 0.3))
    width, height = size_px
    bend = (rng.uniform(-0.25, 0.05), rng.uniform(-0.02, 0.06), *rng.normal(0, 0.0008, 2), 0.0)
    fov = np.radians(rng.uniform(52, 72) + 3.0 * max(0.0, 3.6 - distance))
    return Pinhole(
        position_m=(float(place[0]), float(place[1]), float(place[2])),
        target_m=(float(target[0]), float(target[1]), float(target[2])),
        roll_rad=float(rng.normal(0, 0.03)),
        width_px=width,
        height_px=height,
        focal_px=float(width / 2 / np.tan(fov / 2)),
        shift_px=(float(rng.normal(0, 6)), float(rng.normal(0, 6))),
        bend=bend,  # pyright: ignore[reportArgumentType]
    )


def _sheet(machine: Machine, rng: np.random.Generator) -> dict[str, Any]:
    lens = machine.lens
    return {
        "size_m": (lens.short_edge_m, lens.long_edge_m),
        "focal_m": lens.focal_length_m * rng.uniform(0.98, 1.02),
        "facet_error_rad": rng.uniform(4e-3, 9e-3),
        "transmission": rng.uniform(0.5, 0.75),
    }


def _parked(machine: Machine, sun: Array, rng: np.random.Generator, sand: Sand) -> tuple[Lens, Patch]:
    sheet = _sheet(machine, rng)
    size = sheet.pop("size_m")
    lens = Lens(
        centre_m=np.array(machine.park.lens_centre_world_m), axes=np.eye(3), short_m=size[0], long_m=size[1], **sheet
    )
    return lens, trace(lens, sun, 900.0, 0.03, sand.height_m, rng)


@dataclass(frozen=True, eq=False)
class _Lit:
    lens: Lens
    patch: Patch
    sun: Array
    dni_w_m2: float


def _lit(place: Place, rng: np.random.Generator, spot_m: Array, *, small: bool = False) -> _Lit:
    """A patch near ``spot_m`` from a lens that leans and is out of focus by a random amount."""
    defocus = rng.choice([rng.uniform(-0.06, 0.06), rng.uniform(0, 0.2)]) if not small else rng.uniform(-0.02, 0.03)
    tilt = np.radians(rng.normal(0, 5, 2).clip(-12, 12))
    lens = lens_for(spot_m, place.sun, tilt, float(defocus), **_sheet(place.machine, rng))
    dni = float(rng.uniform(500, 1000))
    patch = trace(
        lens, place.sun, dni, float(np.exp(rng.uniform(np.log(0.01), np.log(0.2)))), place.stage.sand.height_m, rng
    )
    return _Lit(lens, patch, place.sun, dni)


def still(place: Place, kind: str, rng: np.random.Generator) -> Still:
    """Return one still of a kind."""
    if kind in EMPTY_KINDS:
        return _empty(place, kind, rng)
    spot = rng.uniform(-0.38, 0.38, 2)
    lit = _lit(place, rng, spot)
    moment = Moment(sun=lit.sun, dni_w_m2=lit.dni_w_m2, patches=(lit.patch,), lens=lit.lens, bars=_frame_of(lit.lens))
    level = float(rng.uniform(0.25, 0.95))
    if kind == "saturated":
        level = float(np.exp(rng.uniform(np.log(1.5), np.log(60))))
    elif kind == "hidden":
        level = float(np.exp(rng.uniform(np.log(0.3), np.log(3))))
        moment = _partly_hidden(place, moment, rng)
    elif kind == "glass":
        level = float(np.exp(rng.uniform(np.log(0.3), np.log(3))))
        moment = replace(moment, tracks=_tracks(rng, lit.patch.centre_m))
    elif kind == "reflection":
        weak = rng.uniform(0.01, 0.06)
        shift = rng.uniform(0.12, 0.3) * _unit(rng)
        ghost = replace(lit.patch, grid_w_m2=lit.patch.grid_w_m2 * np.float32(weak), low_m=lit.patch.low_m + shift)
        moment = replace(moment, patches=(lit.patch, ghost))
    elif kind == "dim":
        moment = replace(moment, sun_share=float(rng.uniform(0.25, 0.7)))
    return _shot(place, kind, moment, level, rng, sparkles=6 if kind in ("sparkles", "glass") else 0)


def _shot(place: Place, kind: str, moment: Moment, level: float, rng: np.random.Generator, sparkles: int = 0) -> Still:
    light, hidden = place.stage.light(moment)
    smear = rng.normal(0, 0.5, 2) * (rng.random() < 0.3)
    spread = place.sensor.spread(light, (float(smear[0]), float(smear[1])))
    brightest = float((spread * np.array(place.sensor.gains)).max())
    exposure = level / brightest
    if sparkles:
        drawn = tuple(_sparkle(rng, exposure) for _ in range(int(rng.integers(1, sparkles))))
        light = place.stage.light(replace(moment, sparkles=drawn))[0]
        spread = place.sensor.spread(light, (float(smear[0]), float(smear[1])))
    patch = moment.patches[0]
    return Still(kind, place.sensor.expose(spread, exposure, rng), 0.0, patch.centre_m, patch.moments_m2, hidden)


def _sparkle(rng: np.random.Generator, exposure: float) -> tuple[float, float, float, float]:
    """A mirror facet: from half of full scale to 300 times as bright, 0.5 to 1.2 pixels in radius."""
    x, y = rng.uniform(-0.7, 0.7, 2)
    return (
        float(x),
        float(y),
        float(np.exp(rng.uniform(np.log(0.5), np.log(300)))) / exposure,
        float(rng.uniform(0.5, 1.2)),
    )


def _empty(place: Place, kind: str, rng: np.random.Generator) -> Still:
    """No patch: clouds, or the lens turned away; sparkles and glass stay."""
    lens = lens_for(rng.uniform(-0.3, 0.3, 2), place.sun, np.zeros(2), 0.0, **_sheet(place.machine, rng))
    moment = Moment(sun=place.sun, sun_share=float(rng.uniform(0.02, 1.0)), lens=lens, bars=_frame_of(lens))
    exposure = (
        float(np.exp(rng.uniform(np.log(3e-4), np.log(0.1)))) if kind == "empty dark" else float(rng.uniform(0.5, 2.5))
    )
    moment = replace(moment, sparkles=tuple(_sparkle(rng, exposure) for _ in range(int(rng.integers(0, 7)))))
    if kind == "empty glass":
        exposure = float(np.exp(rng.uniform(np.log(0.01), np.log(2))))
        moment = replace(moment, tracks=_tracks(rng, rng.uniform(-0.3, 0.3, 2)))
    spread = place.sensor.spread(place.stage.light(moment)[0])
    return Still(kind, place.sensor.expose(spread, exposure, rng), 0.0, None, None, 0.0)


def _unit(rng: np.random.Generator) -> Array:
    turn = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(turn), np.sin(turn)])


def _tracks(rng: np.random.Generator, end_m: Array) -> tuple[Track, ...]:
    """One track that ends at the patch and glows there, and some old ones."""
    lines: list[Track] = []
    for n in range(int(rng.integers(1, 4))):
        last = end_m if n == 0 else rng.uniform(-0.4, 0.4, 2)
        points = [last]
        for _ in range(int(rng.integers(1, 4))):
            points.append(points[-1] + rng.uniform(0.05, 0.2) * _unit(rng))
        shine = float(np.exp(rng.uniform(np.log(1), np.log(60))))
        lines.append(
            Track(
                points_m=np.array(points[::-1]),
                width_m=float(rng.uniform(0.008, 0.02)),
                shine=shine,
                hot_m=0.03 if n == 0 else 0.0,
            )
        )
    return tuple(lines)


def _frame_of(lens: Lens) -> tuple[Bar, ...]:
    """The lens's frame."""
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * (lens.short_m / 2, lens.long_m / 2)
    world = lens.centre_m + corners @ lens.axes[:, :2].T
    return tuple(Bar(start_m=tuple(a), end_m=tuple(b), width_m=0.03, light=0.08) for a, b in pairwise(world))


def _partly_hidden(place: Place, moment: Moment, rng: np.random.Generator) -> Moment:
    """The same with something in front that hides 8 to 60 % of the patch."""
    tried = moment
    for _ in range(20):
        tried = replace(moment, bars=(*moment.bars, _in_front(place, moment.patches[0], rng)))
        if HIDDEN[0] < place.stage.light(tried)[1] < HIDDEN[1]:
            break
    return tried


def _in_front(place: Place, patch: Patch, rng: np.random.Generator) -> Bar:
    """A pole or a strut close to the bed that covers a part of the patch, from its edge inwards or across."""
    seen = np.array(place.stage.camera.position_m)
    base = np.array([*patch.centre_m, 0.0])
    sight = (seen - base) / np.linalg.norm(seen - base)
    flat = np.cross(sight, (0, 0, 1.0))
    flat, up = flat / np.linalg.norm(flat), np.cross(flat, sight)
    turn = rng.uniform(0, np.pi)
    along = np.cos(turn) * flat + np.sin(turn) * up
    across = np.cos(turn) * up - np.sin(turn) * flat
    size = 2 * float(np.sqrt(np.linalg.eigvalsh(patch.moments_m2)).mean())
    width = size * float(rng.uniform(0.3, 2.0))
    place_m = base + 0.3 * sight + across * (rng.choice([-1, 1]) * (width / 2 + rng.uniform(-0.35, 0.5) * size))
    start, end = place_m - 0.6 * along, place_m + 0.6 * along
    return Bar(start_m=tuple(start), end_m=tuple(end), width_m=width, light=0.05)


def film(place: Place, rng: np.random.Generator, rate_hz: float = 20.0) -> Iterator[Still]:
    """Yield 3.5 s: a moving patch, something that hides it for a second while a brighter sparkle shines, then it again."""
    spot, speed = rng.uniform(-0.25, 0.25, 2), rng.uniform(0.001, 0.05) * _unit(rng)
    lit = _lit(place, rng, spot)
    sheet = lit.lens
    level = float(np.exp(rng.uniform(np.log(0.3), np.log(6))))
    exposure = 0.0
    gleam = (*rng.uniform(-0.3, 0.3, 2), 1.0, 1.5)
    for n in range(round(3.5 * rate_hz)):
        t = n / rate_hz
        moved = np.array([*(speed * t), 0.0])
        patch = trace(
            replace(sheet, centre_m=sheet.centre_m + moved),
            lit.sun,
            lit.dni_w_m2,
            0.03,
            place.stage.sand.height_m,
            rng,
            60_000,
        )
        moment = Moment(sun=lit.sun, dni_w_m2=lit.dni_w_m2, patches=(patch,), lens=sheet, bars=_frame_of(sheet))
        if 1.0 <= t < 2.0:
            moment = replace(moment, bars=(*moment.bars, _wall(place, patch)))
        if not exposure:
            bright = place.sensor.spread(place.stage.light(moment)[0]) * np.array(place.sensor.gains)
            exposure = level / float(bright.max())
        if t >= 0.5:
            moment = replace(moment, sparkles=((gleam[0], gleam[1], 20 * max(level, 1) / exposure, 1.5),))
        light, hidden = place.stage.light(moment)
        picture = place.sensor.expose(place.sensor.spread(light), exposure, rng)
        seen = hidden < FULLY_HIDDEN
        yield Still("film", picture, t, patch.centre_m if seen else None, patch.moments_m2 if seen else None, hidden)


def _wall(place: Place, patch: Patch) -> Bar:
    """Something wide that hides a whole patch."""
    seen = np.array(place.stage.camera.position_m)
    base = np.array([*patch.centre_m, 0.0])
    sight = (seen - base) / np.linalg.norm(seen - base)
    middle = base + 0.5 * sight
    along = np.array([0.0, 0.0, 1.0]) - sight * sight[2]
    along = along / np.linalg.norm(along)
    start, end = middle - 0.7 * along, middle + 0.7 * along
    return Bar(start_m=tuple(start), end_m=tuple(end), width_m=4 * patch.half_m, light=0.05)
