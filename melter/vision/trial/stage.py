"""What lies and stands around: uneven sand, markers, poles, cables, the lens frame, glass tracks, sparkles.

Light is relative to a white sheet in the open sun. One stage has one camera and one sand; frames differ in the patch,
the shadow of the lens, and what is in the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from melter.machine import Machine, Marker
from melter.vision.trial.camera import Pinhole
from melter.vision.trial.light import Array, Lens, Patch

Light = NDArray[np.float32]

SKY_W_M2 = 100.0
SAND_BGR = np.array([0.20, 0.27, 0.33], dtype=np.float32)
"""Albedo of dry quartz sand, blue to red."""
GLOW_BGR = np.array([0.02, 0.15, 1.0], dtype=np.float32)
"""Hot glass at about 1300 K."""
FINE = 3
"""The patch is averaged over this many rays squared a pixel."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Something long and dark between two points in the world."""

    start_m: tuple[float, float, float]
    end_m: tuple[float, float, float]
    width_m: float
    light: float


@dataclass(frozen=True, kw_only=True)
class Track:
    """A line of glass on the sand that mirrors the sky, and here and there the sun."""

    points_m: Array
    """(n, 2)"""
    width_m: float
    shine: float
    """Of its ridge."""
    hot_m: float = 0.0
    """Length of its end that glows."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What one frame shows."""

    sun: Array
    """(3,) towards it."""
    dni_w_m2: float = 900.0
    sun_share: float = 1.0
    """Of the direct light that clouds let through."""
    patches: tuple[Patch, ...] = ()
    lens: Lens | None = None
    bars: tuple[Bar, ...] = ()
    tracks: tuple[Track, ...] = ()
    sparkles: tuple[tuple[float, float, float, float], ...] = ()
    """x, y, light, radius in pixels of a picture 1280 wide."""


@dataclass(frozen=True, eq=False)
class Sand:
    """Height and brightness of the sand as functions of the place."""

    relief_m: float
    grain: float
    seed: int
    waves: Array = field(init=False)
    """(n, 4) kx, ky, phase, amplitude."""

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        length = np.exp(rng.uniform(np.log(0.04), np.log(0.5), 14))
        turn, phase = rng.uniform(0, 2 * np.pi, (2, 14))
        amplitude = length**0.5
        amplitude *= self.relief_m * np.sqrt(2 / np.sum(amplitude**2))
        k = 2 * np.pi / length
        object.__setattr__(self, "waves", np.stack([k * np.cos(turn), k * np.sin(turn), phase, amplitude], axis=1))

    def height_m(self, x: Array, y: Array) -> Array:
        """World z of the surface."""
        z = np.zeros(np.shape(x))
        for kx, ky, phase, a in self.waves:
            z = z + a * np.sin(kx * x + ky * y + phase)
        return z

    def slope(self, x: Array, y: Array) -> tuple[Array, Array]:
        """dz/dx, dz/dy."""
        dx, dy = np.zeros(np.shape(x)), np.zeros(np.shape(x))
        for kx, ky, phase, a in self.waves:
            c = a * np.cos(kx * x + ky * y + phase)
            dx, dy = dx + kx * c, dy + ky * c
        return dx, dy

    def brightness(self, x: Array, y: Array) -> Array:
        """Relative albedo, mean 1: lumps and grains from 4 mm to 0.3 m."""
        rng = np.random.default_rng(self.seed + 1)
        total = np.zeros(np.shape(x), dtype=np.float32)
        for cell in (0.3, 0.09, 0.027, 0.009, 0.004):
            table = rng.standard_normal((256, 256)).astype(np.float32)
            u = ((np.nan_to_num(x) / cell) % 255).astype(np.float32)
            v = ((np.nan_to_num(y) / cell) % 255).astype(np.float32)
            total += np.asarray(cv2.remap(table, u, v, cv2.INTER_LINEAR))
        return np.clip(1 + self.grain * total / np.sqrt(5 * 0.45), 0.2, 2.5)


class Stage:
    """One camera over one machine's bed."""

    def __init__(self, machine: Machine, camera: Pinhole, sand: Sand) -> None:
        self.machine, self.camera, self.sand = machine, camera, sand
        v, u = np.mgrid[0 : camera.height_px, 0 : camera.width_px].astype(float)
        self._x, self._y = self._surface(u, v)
        self._sky = np.isnan(self._x)
        self._slope = sand.slope(np.nan_to_num(self._x), np.nan_to_num(self._y))
        self._albedo = (sand.brightness(self._x, self._y)[..., None] * SAND_BGR).astype(np.float32)
        self._albedo[self._sky] = 0.25
        for marker in machine.bed.marker:
            self._paint(marker)

    def _surface(self, u: Array, v: Array) -> tuple[Array, Array]:
        """World x and y of the sand that pixels see: the plane's point moved for the height there."""
        x, y = self.camera.ground(u, v)
        cx, cy, cz = self.camera.position_m
        z = self.sand.height_m(np.nan_to_num(x), np.nan_to_num(y))
        return x + (cx - x) * z / cz, y + (cy - y) * z / cz

    def _paint(self, marker: Marker, fine: int = 6) -> None:
        """A marker on a stiff white sheet, flat at z = 0."""
        side, yaw, (cx, cy) = marker.size_m, marker.yaw_rad, marker.centre_m
        book = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, marker.dictionary))
        cells = int(book.markerSize) + 2
        picture = np.asarray(cv2.aruco.generateImageMarker(book, marker.id, cells, None, 1))
        bits = np.pad(picture > 0, 1, mode="constant", constant_values=True)
        reach = 0.75 * side * (cells + 2) / cells
        ring = np.array([[cx + a * reach, cy + b * reach, 0.0] for a in (-1, 1) for b in (-1, 1)])
        px = self.camera.pixels(ring)
        lo = np.maximum(np.floor(px.min(axis=0)).astype(int), 0)
        hi = np.minimum(np.ceil(px.max(axis=0)).astype(int) + 1, (self.camera.width_px, self.camera.height_px))
        if (hi <= lo).any():
            return
        offset = (np.arange(fine) + 0.5) / fine - 0.5
        u = (np.arange(lo[0], hi[0])[:, None] + offset).ravel()
        v = (np.arange(lo[1], hi[1])[:, None] + offset).ravel()
        x, y = self.camera.ground(*np.meshgrid(u, v))
        c, s = np.cos(yaw), np.sin(yaw)
        i = np.floor(((x - cx) * c + (y - cy) * s) / side * cells + cells / 2 + 1)
        j = np.floor(((x - cx) * s - (y - cy) * c) / side * cells + cells / 2 + 1)
        on = (i >= 0) & (i < cells + 2) & (j >= 0) & (j < cells + 2)
        value = np.where(bits[np.where(on, j, 0).astype(int), np.where(on, i, 0).astype(int)], 0.82, 0.045) * on
        shape = (hi[1] - lo[1], fine, hi[0] - lo[0], fine)
        cover, value = on.reshape(shape).mean(axis=(1, 3)), value.reshape(shape).mean(axis=(1, 3))
        part = self._albedo[lo[1] : hi[1], lo[0] : hi[0]]
        part[:] = part * (1 - cover[..., None]) + value[..., None]

    def light(self, moment: Moment) -> tuple[Light, float]:
        """Return (h, w, 3) light before the optics, and the share of the first patch's light that something hides."""
        up = float(moment.sun[2])
        direct = moment.dni_w_m2 * moment.sun_share
        open_w_m2 = moment.dni_w_m2 * up + SKY_W_M2
        dx, dy = self._slope
        facing = np.maximum(up - moment.sun[0] * dx - moment.sun[1] * dy, 0.0) * direct
        facing *= 1 - self._shadow(moment)
        energy = (facing + SKY_W_M2).astype(np.float32)
        patch_light = np.zeros_like(energy)
        for patch in moment.patches:
            self._add_patch(patch_light, patch, moment.sun_share)
        out = self._albedo * ((energy + patch_light) / np.float32(open_w_m2))[..., None]
        for track in moment.tracks:
            self._add_track(out, track)
        for x, y, strength, radius in moment.sparkles:
            u, v = self.camera.pixels(np.array([x, y, 0.0]))
            dot = np.zeros(energy.shape, dtype=np.uint8)
            centre = (round(float(16 * u)), round(float(16 * v)))
            cv2.circle(dot, centre, max(int(16 * radius * self.camera.width_px / 1280), 4), (255,), -1, cv2.LINE_AA, 4)
            out += (dot.astype(np.float32) * np.float32(strength / 255))[..., None]
        hidden = self._put_bars(out, moment.bars)
        seen = float(patch_light.sum())
        return out, float((patch_light * hidden).sum()) / seen if seen > 0 else 0.0

    def _add_patch(self, energy: Light, patch: Patch, share: float) -> None:
        h = patch.half_m
        cx, cy = patch.low_m + h
        ring = np.array([[cx + a * h, cy + b * h, 0.0] for a in (-1, 0, 1) for b in (-1, 0, 1)])
        px = self.camera.pixels(ring)
        lo = np.maximum(np.floor(px.min(axis=0)).astype(int) - 2, 0)
        hi = np.minimum(np.ceil(px.max(axis=0)).astype(int) + 3, (self.camera.width_px, self.camera.height_px))
        if (hi <= lo).any():
            return
        offset = (np.arange(FINE) + 0.5) / FINE - 0.5
        u = (np.arange(lo[0], hi[0])[:, None] + offset).ravel()
        v = (np.arange(lo[1], hi[1])[:, None] + offset).ravel()
        x, y = self._surface(*np.meshgrid(u, v))
        i = ((x - patch.low_m[0]) / patch.cell_m).astype(np.float32)
        j = ((y - patch.low_m[1]) / patch.cell_m).astype(np.float32)
        value = np.asarray(cv2.remap(patch.grid_w_m2, i, j, cv2.INTER_LINEAR, borderValue=0.0))
        mean = value.reshape(hi[1] - lo[1], FINE, hi[0] - lo[0], FINE).mean(axis=(1, 3))
        energy[lo[1] : hi[1], lo[0] : hi[0]] += mean.astype(np.float32) * np.float32(share)

    def _shadow(self, moment: Moment) -> Light:
        shade = np.zeros(self._x.shape, dtype=np.uint8)
        if moment.lens is None:
            return shade.astype(np.float32)
        lens = moment.lens
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (lens.short_m / 2, lens.long_m / 2)
        world = lens.centre_m + corners @ lens.axes[:, :2].T
        ground = world - moment.sun * (world[:, 2:] / moment.sun[2])
        px = self.camera.pixels(ground)
        if np.isfinite(px).all() and np.abs(px).max() < 1e5:
            cv2.fillConvexPoly(shade, np.round(px * 16).astype(np.int32), (255,), cv2.LINE_AA, 4)
        return cv2.GaussianBlur(shade, (0, 0), 1.5).astype(np.float32) / np.float32(255)

    def _add_track(self, out: Light, track: Track) -> None:
        """Dark glass with a bright ridge that sparkles unevenly, and a glowing end."""
        steps = max(int(np.sum(np.linalg.norm(np.diff(track.points_m, axis=0), axis=1)) / 0.004), 2)
        t = np.linspace(0, len(track.points_m) - 1, steps)
        line = np.stack([np.interp(t, np.arange(len(track.points_m)), track.points_m[:, i]) for i in (0, 1)], axis=1)
        px = self.camera.pixels(np.column_stack([line, np.zeros(steps)]))
        per_m = float(np.linalg.norm(px[1] - px[0]) / max(np.linalg.norm(line[1] - line[0]), 1e-9))
        points = np.round(px * 16).astype(np.int32)
        body, ridge = np.zeros(out.shape[:2], np.uint8), np.zeros(out.shape[:2], np.uint8)
        cv2.polylines(body, [points], False, (255,), max(1, round(track.width_m * per_m)), cv2.LINE_AA, 4)
        rng = np.random.default_rng(self.sand.seed + steps)
        for i in range(steps - 1):
            level = int(np.clip(255 * rng.beta(0.25, 1.2), 0, 255))
            cv2.line(ridge, points[i].tolist(), points[i + 1].tolist(), (level,), 1, cv2.LINE_AA, 4)
        cover = body.astype(np.float32)[..., None] / np.float32(255)
        out *= 1 - np.float32(0.55) * cover
        out += ridge.astype(np.float32)[..., None] * np.float32(track.shine / 255)
        if track.hot_m > 0:
            glow = np.zeros(out.shape[:2], np.uint8)
            n = max(2, int(track.hot_m / 0.004))
            cv2.polylines(glow, [points[-n:]], False, (255,), max(1, round(track.width_m * per_m)), cv2.LINE_AA, 4)
            out += glow.astype(np.float32)[..., None] / np.float32(255) * GLOW_BGR * np.float32(3.0)

    def _put_bars(self, out: Light, bars: tuple[Bar, ...]) -> Light:
        """Draw dark things in place; return how much of each pixel they cover."""
        covered = np.zeros(out.shape[:2], dtype=np.float32)
        for bar in bars:
            a, b = np.array(bar.start_m), np.array(bar.end_m)
            middle = np.linspace(0, 1, 9)[:, None] * (b - a) + a
            depth = (middle - self.camera.position_m) @ self.camera.axes[2]
            if (depth < 0.1).any():
                continue
            px = self.camera.pixels(middle)
            along = np.gradient(px, axis=0)
            across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
            half = (self.camera.focal_px * bar.width_m / depth / 2)[:, None]
            scale = np.minimum(1.0, 2 * half)
            half = np.maximum(half, 0.5)
            outline = np.concatenate([px + across * half, (px - across * half)[::-1]])
            size = (self.camera.width_px, self.camera.height_px)
            lo = np.clip(np.floor(outline.min(axis=0)).astype(int) - 1, 0, size)
            hi = np.clip(np.ceil(outline.max(axis=0)).astype(int) + 2, 0, size)
            if (hi <= lo).any():
                continue
            part = (slice(lo[1], hi[1]), slice(lo[0], hi[0]))
            mask = np.zeros((hi[1] - lo[1], hi[0] - lo[0]), dtype=np.uint8)
            cv2.fillPoly(mask, [np.round((outline - lo) * 16).astype(np.int32)], (255,), cv2.LINE_AA, 4)
            cover = mask.astype(np.float32) / np.float32(255) * np.float32(scale.mean())
            out[part] *= 1 - cover[..., None]
            out[part] += cover[..., None] * np.float32(bar.light)
            covered[part] = np.maximum(covered[part], cover)
        return covered
