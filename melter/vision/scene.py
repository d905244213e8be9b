"""A synthetic webcam for the rehearsal machine: sand, markers, poles, the lens, its shadow, cables and the light patch.

Drawn with numpy and OpenCV only. What never moves is rendered once; a frame adds light, shadow, lens and cables where
they are. Everything is computed in linear light relative to sunlit sand and encoded like a webcam does (sRGB).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.errors import CameraError
from melter.geometry.pose import rotation_from_vector, sun_direction_world
from melter.machine import Machine, Marker
from melter.vision.calibration import CameraCalibration
from melter.vision.markers import dictionary_of, marker_corners_m
from melter.vision.opencv import cv2
from melter.vision.response import linear_to_srgb

Array = NDArray[np.float64]
Light = NDArray[np.float32]
Image = NDArray[np.uint8]

DIFFUSE_W_M2 = 100.0
"""Sky light on the sand on a clear day (typical of ASTM G173 at 1.5 air masses)."""
SAND_BGR = np.array([0.80, 1.0, 1.12], dtype=np.float32)
"""Sand's colour over its brightness in the green; the patch has it too, since sand scatters it."""
FINER = 2
"""Sand is rendered this many times finer and averaged."""
FINER_MARKER = 8
"""The same for markers, whose edges are measured to hundredths of a pixel."""
_LUT = np.round(255 * linear_to_srgb(np.arange(65536) / 65535)).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """How the camera and the sand are; the defaults are a decent webcam in the sun."""

    camera_jitter_m: float = 0.0
    """Standard deviation of the camera's place about the machine file's, per axis."""
    camera_jitter_rad: float = 0.0
    """The same of its attitude."""
    distortion_coefficients: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    """Of the lens of the camera: k1, k2, p1, p2, k3."""
    image_size_px: tuple[int, int] | None = None
    """Width and height; without it, the machine file's."""
    sand_level: float = 0.30
    """Linear light of sunlit sand at exposure 1, of full scale 1."""
    sand_texture: float = 0.10
    """Relative standard deviation of the sand's brightness."""
    relief_m: float = 0.0
    """Standard deviation of the sand's height under the patch."""
    noise_codes: float = 1.0
    """Standard deviation of the sensor's noise in 8-bit codes."""
    blur_px: float = 0.6
    """Standard deviation of the optics' blur."""
    bloom_share: float = 0.01
    """Share of the light that the optics scatter widely."""
    bloom_px: float = 10.0
    """Standard deviation of that scatter."""


class SceneRenderer:
    """Renders frames of one machine from one camera, which stays where it is."""

    def __init__(self, machine: Machine, rng: np.random.Generator, options: SceneOptions | None = None) -> None:
        self.machine, self.options, self._rng = machine, options or SceneOptions(), rng
        width, height = self.options.image_size_px or machine.camera.image_size_px
        if not (16 <= width <= 8192 and 16 <= height <= 8192):
            raise CameraError(f"scene: image_size_px = {[width, height]}, must be 16 to 8192 each")
        self.position_world_m, self.rotation_camera_world = _camera_pose(machine, rng, self.options)
        focal = width / 2 / np.tan(np.radians(machine.camera.horizontal_fov_deg) / 2)
        matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        self.calibration = CameraCalibration((width, height), matrix, np.array(self.options.distortion_coefficients))
        """The true one."""
        self.sun_world = sun_direction_world(machine.sun.zenith_rad, machine.sun.azimuth_rad)
        self.sunlit_w_m2 = float(max(machine.sun.dni_w_m2 * self.sun_world[2], 0.0)) + DIFFUSE_W_M2
        """On level sand in the open."""
        self._static, self._x_m, self._y_m = _fixed_scene(self, rng)
        self._coded: tuple[float, Image] | None = None
        noise = rng.normal(0, self.options.noise_codes, (3, height + 32, width + 32, 1))
        self._noise = np.clip(np.round(noise), -127, 127).astype(np.int8).repeat(3, axis=-1)
        self._relief_m = 0.0

    def project_px(self, points_world_m: ArrayLike) -> Array:
        """Return (..., 2) pixels of (..., 3) world points; NaN behind the camera."""
        seen = (np.asarray(points_world_m, dtype=float) - self.position_world_m) @ self.rotation_camera_world.T
        depth = np.where(seen[..., 2] > 0.05, seen[..., 2], np.nan)
        m = self.calibration.camera_matrix
        ideal = np.stack([m[0, 0] * seen[..., 0] / depth + m[0, 2], m[1, 1] * seen[..., 1] / depth + m[1, 2]], axis=-1)
        return self.calibration.distort_px(ideal)

    def exposure_for(self, peak_w_m2: float, level: float = 0.6) -> float:
        """Return the exposure at which irradiance ``peak_w_m2`` on the sand gives linear light ``level``."""
        return level / max(self.options.sand_level * peak_w_m2 / self.sunlit_w_m2, 1e-9)

    def render(
        self,
        lens_centre_world_m: ArrayLike,
        rotation: ArrayLike,
        patch_centre_world_m: ArrayLike,
        patch_covariance_m2: ArrayLike,
        power_w: float,
        *,
        exposure: float = 1.0,
        motion_m: ArrayLike = (0.0, 0.0),
        sun_share: float = 1.0,
        cables: bool = True,
    ) -> Image:
        """Return one BGR frame, (h, w, 3).

        Lens centre (3,) and rotation lens to world (3, 3); patch centre (2,) and second central moments (xx, xy, yy)
        of its irradiance, a Gaussian of ``power_w``; ``exposure`` scales all light, 1 suits sunlit sand; ``motion_m``
        (2,) is how far the patch moves while the shutter is open; ``sun_share`` dims direct sunlight (clouds).
        """
        centre, attitude = np.asarray(lens_centre_world_m, dtype=float), np.asarray(rotation, dtype=float)
        xx, xy, yy = np.asarray(patch_covariance_m2, dtype=float)
        motion = np.asarray(motion_m, dtype=float)
        covariance = np.array([[xx, xy], [xy, yy]]) + np.outer(motion, motion) / 12
        frame = self._open_sand(exposure * self._share_of_light(sun_share)).copy()
        self._add_light(
            frame,
            centre,
            attitude,
            np.asarray(patch_centre_world_m, dtype=float),
            covariance,
            power_w * sun_share,
            exposure,
            sun_share,
        )
        if cables:
            self._draw_machine(frame, centre, attitude, exposure)
        return self._add_noise(frame)

    def _share_of_light(self, sun_share: float) -> float:
        direct = self.sunlit_w_m2 - DIFFUSE_W_M2
        return (direct * sun_share + DIFFUSE_W_M2) / self.sunlit_w_m2

    def _open_sand(self, exposure: float) -> Image:
        if self._coded is None or abs(self._coded[0] / exposure - 1) > 1e-6:
            self._coded = (exposure, _encode(self._static * np.float32(exposure)))
        return self._coded[1]

    def _add_light(
        self,
        frame: Image,
        centre: Array,
        attitude: Array,
        patch: Array,
        covariance: Array,
        power_w: float,
        exposure: float,
        sun_share: float,
    ) -> None:
        """Lens shadow and light patch, in place, where they are."""
        lens = self.machine.lens
        half = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (lens.short_edge_m / 2, lens.long_edge_m / 2)
        corners = centre + np.column_stack([half, np.zeros(4)]) @ attitude.T
        ground = corners - self.sun_world * ((corners[:, 2:] - self.machine.sand.height_m) / self.sun_world[2])
        shadow_px = self.project_px(ground)
        reach = 6 * np.sqrt(np.linalg.eigvalsh(covariance)[-1])
        box = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * reach + patch
        level = np.full((4, 1), self.machine.sand.height_m)
        patch_px = self.project_px(np.column_stack([box, level]))
        roi = self.visible_region(np.concatenate([shadow_px, patch_px]), 3 * self.options.bloom_px)
        if roi is None:
            return
        (u0, v0, u1, v1), options = roi, self.options
        light = self._static[v0:v1, u0:u1] * np.float32(self._share_of_light(sun_share))
        shade = np.zeros((v1 - v0, u1 - u0), dtype=np.uint8)
        if np.isfinite(shadow_px).all():
            cv2.fillConvexPoly(shade, np.round((shadow_px - (u0, v0)) * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
        in_shadow = np.float32(DIFFUSE_W_M2 / self.sunlit_w_m2 / self._share_of_light(sun_share))
        factor = 1 + (shade.astype(np.float32) / np.float32(255)) * (in_shadow - 1)
        spot = self._patch_light(u0, v0, u1, v1, patch, covariance, power_w)
        albedo = self._static[v0:v1, u0:u1, 1] / np.float32(options.sand_level)
        spot = cv2.GaussianBlur(spot * albedo, (0, 0), options.blur_px) if options.blur_px > 0.2 else spot * albedo
        if options.bloom_share > 0:
            wide = cv2.GaussianBlur(spot, (0, 0), options.bloom_px)
            spot = (1 - np.float32(options.bloom_share)) * spot + np.float32(options.bloom_share) * wide
        light *= factor[..., None]
        light += spot[..., None] * SAND_BGR
        frame[v0:v1, u0:u1] = _encode(light * np.float32(exposure))

    def _patch_light(
        self, u0: int, v0: int, u1: int, v1: int, patch: Array, covariance: Array, power_w: float
    ) -> Light:
        """Linear light of the patch on sand of even brightness, relative like everything else."""
        if self.options.relief_m > 0:
            self._relief_m = 0.98 * self._relief_m + 0.199 * float(self._rng.normal(0, self.options.relief_m))
        away = (self.position_world_m[:2] - patch) / max(self.position_world_m[2] - self.machine.sand.height_m, 0.1)
        seen_at = patch + away * self._relief_m
        inverse = np.linalg.inv(covariance).astype(np.float32)
        x = self._x_m[v0:v1, u0:u1] - np.float32(seen_at[0])
        y = self._y_m[v0:v1, u0:u1] - np.float32(seen_at[1])
        q = inverse[0, 0] * x * x + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y * y
        peak = power_w / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
        return np.exp(np.maximum(-q / 2, -80)) * np.float32(self.options.sand_level * peak / self.sunlit_w_m2)

    def _draw_machine(self, frame: Image, centre: Array, attitude: Array, exposure: float) -> None:
        """Lens frame, struts and cables, in place."""
        lens, machine = self.machine.lens, self.machine
        half = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * (lens.short_edge_m / 2, lens.long_edge_m / 2)
        outline = centre + np.column_stack([half, np.zeros(5)]) @ attitude.T
        ends = centre + machine.attachments_lens_m @ attitude.T
        for a, b in pairwise(outline):
            self._line(frame, a, b, 0.025, 0.25 * exposure)
        for end in ends:
            near = outline[np.argmin(np.linalg.norm(outline - end, axis=1))]
            self._line(frame, near, end, 0.02, 0.2 * exposure)
        for pulley, end in zip(machine.pulleys_world_m, ends, strict=True):
            self._line(frame, pulley, end, 0.003, 0.12 * exposure)

    def _line(self, frame: Image, a: Array, b: Array, width_m: float, light: float) -> None:
        _draw_line(
            frame, self.project_px(a + np.linspace(0, 1, 7)[:, None] * (b - a)), self._width_px(a, b, width_m), light
        )

    def _width_px(self, a: Array, b: Array, width_m: float) -> float:
        distance = float(np.linalg.norm((a + b) / 2 - self.position_world_m))
        return width_m * self.calibration.camera_matrix[0, 0] / max(distance, 0.1)

    def visible_region(self, points_px: Array, margin_px: float) -> tuple[int, int, int, int] | None:
        """Return u0, v0, u1, v1 of the image part that holds some of the points, and a margin; None outside it."""
        width, height = self.calibration.image_size_px
        good = points_px[np.isfinite(points_px).all(axis=1)]
        if len(good) == 0:
            return None
        low = np.maximum(np.floor(good.min(axis=0) - margin_px), 0).astype(int)
        high = np.minimum(np.ceil(good.max(axis=0) + margin_px) + 1, (width, height)).astype(int)
        return (int(low[0]), int(low[1]), int(high[0]), int(high[1])) if (high > low).all() else None

    def _add_noise(self, frame: Image) -> Image:
        if self.options.noise_codes <= 0:
            return frame
        height, width = frame.shape[:2]
        which, dv, du = int(self._rng.integers(3)), int(self._rng.integers(32)), int(self._rng.integers(32))
        noise = self._noise[which, dv : dv + height, du : du + width]
        return np.asarray(cv2.add(frame, noise, dtype=cv2.CV_8U), dtype=np.uint8)


def _encode(light: Light) -> Image:
    """Linear light to sRGB codes."""
    index = np.minimum(light * np.float32(65535), np.float32(65535)).astype(np.uint16)
    return _LUT[index]


def _camera_pose(machine: Machine, rng: np.random.Generator, options: SceneOptions) -> tuple[Array, Array]:
    """Position, and rotation world to camera (x right, y down, z forward)."""
    position = np.array(machine.camera.position_world_m) + rng.normal(0, 1, 3) * options.camera_jitter_m
    forward = np.array(machine.camera.look_at_world_m) - np.array(machine.camera.position_world_m)
    length = float(np.linalg.norm(forward))
    if length < 1e-6:
        raise CameraError("camera.look_at_world_m: is camera.position_world_m itself")
    forward = forward / length
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right = np.array([1.0, 0.0, 0.0]) if np.linalg.norm(right) < 1e-6 else right / np.linalg.norm(right)
    rotation = np.array([right, np.cross(forward, right), forward])
    return position, rotation_from_vector(rng.normal(0, 1, 3) * options.camera_jitter_rad) @ rotation


def _fixed_scene(scene: SceneRenderer, rng: np.random.Generator) -> tuple[Light, Light, Light]:
    """Linear light (h, w, 3) of the empty scene, and the bed x and y (h, w) that each pixel sees."""
    width, height = scene.calibration.image_size_px
    x, y = _bed_of_pixels(
        scene, (np.arange(width * FINER) + 0.5) / FINER - 0.5, (np.arange(height * FINER) + 0.5) / FINER - 0.5
    )
    sand = scene.options.sand_level * (1 + _texture(x, y, rng) * scene.options.sand_texture)
    light = np.clip(sand, 0.02, 2.0)[..., None] * SAND_BGR
    light[np.isnan(x)] = scene.options.sand_level * np.array([1.6, 1.4, 1.2])
    out = np.asarray(
        cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA), dtype=np.float32
    )
    for marker in scene.machine.bed.marker:
        _paint_marker(scene, out, marker)
    _draw_poles(scene, out)
    if scene.options.blur_px > 0.2:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), scene.options.blur_px), dtype=np.float32)
    x, y = _bed_of_pixels(scene, np.arange(width, dtype=float), np.arange(height, dtype=float))
    return out, np.nan_to_num(x, nan=1e3).astype(np.float32), np.nan_to_num(y, nan=1e3).astype(np.float32)


def _bed_of_pixels(scene: SceneRenderer, u: Array, v: Array) -> tuple[Array, Array]:
    pixels = np.stack(np.meshgrid(u, v), axis=-1)
    ideal = scene.calibration.undistort_px(pixels)
    m = scene.calibration.camera_matrix
    rays = np.stack(
        [(ideal[..., 0] - m[0, 2]) / m[0, 0], (ideal[..., 1] - m[1, 2]) / m[1, 1], np.ones(ideal.shape[:2])], axis=-1
    )
    rays = rays @ scene.rotation_camera_world
    down = np.where(rays[..., 2] < -1e-3, rays[..., 2], np.nan)
    reach = (scene.machine.sand.height_m - scene.position_world_m[2]) / down
    return scene.position_world_m[0] + reach * rays[..., 0], scene.position_world_m[1] + reach * rays[..., 1]


def _texture(x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Smooth random brightness of zero mean and unit variance: octaves from 6 mm to 0.4 m."""
    total, weight = np.zeros(x.shape), 0.0
    x32, y32 = np.nan_to_num(x, nan=0.0).astype(np.float32), np.nan_to_num(y, nan=0.0).astype(np.float32)
    for cell_m in (0.4, 0.1, 0.025, 0.006):
        grid = rng.normal(0, 1, (512, 512)).astype(np.float32)
        total += cv2.remap(
            grid, (x32 / cell_m + 256) % 511, (y32 / cell_m + 256) % 511, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
        weight += 0.45
    return total / np.sqrt(weight)


def _paint_marker(scene: SceneRenderer, light: Light, marker: Marker) -> None:
    """Black and white squares of one marker with a white margin of one cell, each pixel averaged over a fine grid."""
    dictionary, level = dictionary_of(marker.dictionary), scene.machine.sand.height_m
    cells = int(dictionary.markerSize) + 2
    picture = np.asarray(cv2.aruco.generateImageMarker(dictionary, marker.id, cells, None, 1))
    picture = np.pad(picture, 1, constant_values=255)
    centre, cell_m = np.array(marker.centre_m), marker.size_m / cells
    outline = centre + (marker_corners_m(marker) - centre) * (cells + 2) / cells
    region = scene.visible_region(scene.project_px(np.column_stack([outline, np.full(4, level)])), 2)
    if region is None:
        return
    u0, v0, u1, v1 = region
    fine = (np.arange(FINER_MARKER) + 0.5) / FINER_MARKER - 0.5
    x, y = _bed_of_pixels(
        scene, (np.arange(u0, u1)[:, None] + fine).ravel(), (np.arange(v0, v1)[:, None] + fine).ravel()
    )
    c, s = np.cos(marker.yaw_rad), np.sin(marker.yaw_rad)
    dx, dy = np.nan_to_num(x, nan=1e3) - centre[0], np.nan_to_num(y, nan=1e3) - centre[1]
    i = np.floor((dx * c + dy * s) / cell_m + cells / 2 + 1).astype(int)
    j = np.floor((dx * s - dy * c) / cell_m + cells / 2 + 1).astype(int)
    on = (i >= 0) & (i < cells + 2) & (j >= 0) & (j < cells + 2)
    white = picture[np.clip(j, 0, cells + 1), np.clip(i, 0, cells + 1)] > 0
    shape = (v1 - v0, FINER_MARKER, u1 - u0, FINER_MARKER)
    cover = on.reshape(shape).mean(axis=(1, 3))
    value = (np.where(white, 2.4, 0.12) * on).reshape(shape).mean(axis=(1, 3)) * scene.options.sand_level
    view = light[v0:v1, u0:u1]
    view[:] = view * (1 - cover[..., None]) + value[..., None]


def _draw_poles(scene: SceneRenderer, light: Light) -> None:
    for pole in scene.machine.frame.poles_world_m:
        foot, top = np.array([*pole, scene.machine.sand.height_m]), np.array([*pole, scene.machine.frame.height_m])
        points = scene.project_px(foot + np.linspace(0, 1, 7)[:, None] * (top - foot))
        width_px = (
            0.06
            * scene.calibration.camera_matrix[0, 0]
            / max(float(np.linalg.norm(foot - scene.position_world_m)), 0.3)
        )
        good = points[np.isfinite(points).all(axis=1)]
        if len(good) > 1 and np.abs(good).max() < 2e4:
            value = scene.options.sand_level * 0.7
            cv2.polylines(
                light,
                [np.round(good * 16).astype(np.int32)],
                False,
                (value, value, value),
                max(1, round(width_px)),
                cv2.LINE_8,
                4,
            )


def _draw_line(frame: Image, points_px: Array, width_px: float, light: float) -> None:
    """A dark line of fractional width: at least one pixel wide."""
    good = points_px[np.isfinite(points_px).all(axis=1)]
    if len(good) < 2 or np.abs(good).max() > 2e4:
        return
    code = round(255 * float(linear_to_srgb(light)))
    cv2.polylines(
        frame,
        [np.round(good * 16).astype(np.int32)],
        False,
        (code, code, code),
        max(1, round(width_px)),
        cv2.LINE_AA,
        4,
    )


__all__ = ["SceneOptions", "SceneRenderer"]
