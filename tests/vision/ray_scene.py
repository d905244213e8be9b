"""A second renderer, for tests only: every pixel is a bundle of rays through a pinhole, sand is a plane.

Shares no code with melter.vision. Slow and plain on purpose: supersampled ray casting of a scene whose radiance is a
formula on the bed plane, an optional occluder in front, distortion by its forward formula (inverted per ray), blur and
bloom as convolutions of linear light, a response curve, noise, clipping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True)
class Cam:
    position: tuple[float, float, float]
    look_at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    fov_deg: float = 70.0
    size: tuple[int, int] = (1280, 720)
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    roll: float = 0.0

    @property
    def focal(self) -> float:
        return self.size[0] / 2 / np.tan(np.radians(self.fov_deg) / 2)

    @property
    def matrix(self) -> np.ndarray:
        w, h = self.size
        return np.array([[self.focal, 0, (w - 1) / 2], [0, self.focal, (h - 1) / 2], [0, 0, 1.0]])

    @property
    def axes(self) -> np.ndarray:
        """Rows: right, down, forward in world axes."""
        f = np.subtract(self.look_at, self.position)
        f = f / np.linalg.norm(f)
        r = np.cross(f, (0, 0, 1.0))
        r = r / np.linalg.norm(r)
        d = np.cross(f, r)
        c, s = np.cos(self.roll), np.sin(self.roll)
        return np.array([c * r + s * d, -s * r + c * d, f])

    def project(self, points: np.ndarray) -> np.ndarray:
        p = (np.asarray(points, dtype=float) - self.position) @ self.axes.T
        x, y = p[..., 0] / p[..., 2], p[..., 1] / p[..., 2]
        k1, k2, p1, p2, k3 = self.distortion
        r2 = x * x + y * y
        g = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        xd = x * g + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        yd = y * g + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        m = self.matrix
        return np.stack([m[0, 0] * xd + m[0, 2], m[1, 1] * yd + m[1, 2]], axis=-1)

    def rays(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        m = self.matrix
        xd, yd = (u - m[0, 2]) / m[0, 0], (v - m[1, 2]) / m[1, 1]
        x, y = xd.copy(), yd.copy()
        k1, k2, p1, p2, k3 = self.distortion
        if any(self.distortion):
            for _ in range(25):
                r2 = x * x + y * y
                g = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
                x, y = (
                    (xd - 2 * p1 * x * y - p2 * (r2 + 2 * x * x)) / g,
                    (yd - p1 * (r2 + 2 * y * y) - 2 * p2 * x * y) / g,
                )
        return np.stack([x, y, np.ones_like(x)], axis=-1) @ self.axes

    def bed(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        d = self.rays(u, v)
        t = -self.position[2] / np.where(d[..., 2] < -1e-4, d[..., 2], np.nan)
        return self.position[0] + t * d[..., 0], self.position[1] + t * d[..., 1]


Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


def gaussian_patch(centre, covariance, power) -> Field:
    """Irradiance (W/m²) of a Gaussian patch; covariance (2, 2)."""
    inv, det = np.linalg.inv(covariance), np.linalg.det(covariance)

    def f(x, y):
        dx, dy = x - centre[0], y - centre[1]
        q = inv[0, 0] * dx * dx + 2 * inv[0, 1] * dx * dy + inv[1, 1] * dy * dy
        return power / (2 * np.pi * np.sqrt(det)) * np.exp(-np.minimum(q, 400) / 2)

    return f


def uniform_patch(centre, semi_axes, angle, power) -> Field:
    """Irradiance of a uniformly lit ellipse."""
    c, s = np.cos(angle), np.sin(angle)

    def f(x, y):
        dx, dy = x - centre[0], y - centre[1]
        q = ((c * dx + s * dy) / semi_axes[0]) ** 2 + ((-s * dx + c * dy) / semi_axes[1]) ** 2
        return np.where(q < 1, power / (np.pi * semi_axes[0] * semi_axes[1]), 0.0)

    return f


@dataclass
class Scene:
    cam: Cam
    markers: tuple = ()
    """(bits 6 x 6 of 0/1 with black border, size, centre, yaw)"""
    sunlit: float = 916.0
    sand: float = 0.35
    texture: float = 0.08
    shadow: tuple | None = None
    """Polygon of the lens shadow on the bed, (n, 2)."""
    extra: list[tuple[Field, float]] = field(default_factory=list)
    """(irradiance field, albedo factor)"""
    seed: int = 0

    def radiance(self, x: np.ndarray, y: np.ndarray, patch: Field | None) -> np.ndarray:
        """Relative to a white surface in the open sun = 1."""
        rng = np.random.default_rng(self.seed)
        tex = np.zeros_like(x)
        for _ in range(16 if self.texture else 0):
            wave, phase = rng.normal(0, 1, 2) * 10 ** rng.uniform(0.5, 2.5), rng.uniform(0, 6.28)
            tex += np.sin(wave[0] * x + wave[1] * y + phase)
        albedo = self.sand * (1 + self.texture * tex / np.sqrt(8))
        for bits, size, centre, yaw in self.markers:
            c, s = np.cos(yaw), np.sin(yaw)
            n = bits.shape[0]
            a = ((x - centre[0]) * c + (y - centre[1]) * s) / size * n + n / 2
            b = n / 2 - (-(x - centre[0]) * s + (y - centre[1]) * c) / size * n
            i, j = np.floor(a), np.floor(b)
            margin = (i >= -1) & (i <= n) & (j >= -1) & (j <= n)
            inside = (i >= 0) & (i < n) & (j >= 0) & (j < n)
            ii, jj = np.clip(np.nan_to_num(i), 0, n - 1).astype(int), np.clip(np.nan_to_num(j), 0, n - 1).astype(int)
            albedo = np.where(margin, 0.85, albedo)
            albedo = np.where(inside, np.where(bits[jj, ii] > 0, 0.85, 0.05), albedo)
        light = np.ones_like(x)
        if self.shadow is not None:
            poly = np.asarray(self.shadow)
            inside = np.ones(x.shape, dtype=bool)
            area = 0.0
            for p, q in zip(poly, np.roll(poly, -1, axis=0), strict=True):
                area += p[0] * q[1] - p[1] * q[0]
            for p, q in zip(poly, np.roll(poly, -1, axis=0), strict=True):
                cross = (q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0])
                inside &= cross * np.sign(area) > 0
            light = np.where(inside, 100 / self.sunlit, 1.0)
        if patch is not None:
            light = light + patch(x, y) / self.sunlit
        out = albedo * light
        for f, factor in self.extra:
            out = out + f(x, y) / self.sunlit * factor
        return np.nan_to_num(out, nan=0.5)


def base_light(scene: Scene, supersample: int = 6) -> np.ndarray:
    """(h, w) radiance of the scene without patch: each pixel's middle ray, markers supersampled."""
    w, h = scene.cam.size
    v, u = np.mgrid[0:h, 0:w].astype(float)
    out = scene.radiance(*scene.cam.bed(u, v), None)
    for _bits, size, centre, _yaw in scene.markers:
        reach = 1.2 * size
        ring = [[centre[0] + a * reach, centre[1] + b * reach, 0] for a in (-1, 1) for b in (-1, 1)]
        p = scene.cam.project(np.array(ring))
        _supersampled(scene, out, (*np.floor(p.min(axis=0)), *np.ceil(p.max(axis=0))), None, supersample, None)
    return out


def _supersampled(scene, out, box, patch, supersample, hide) -> None:
    h, w = out.shape
    u0, v0, u1, v1 = (int(t) for t in box)
    u0, v0, u1, v1 = max(u0, 0), max(v0, 0), min(u1, w), min(v1, h)
    if u1 <= u0 or v1 <= v0:
        return
    vv, uu = np.mgrid[v0:v1, u0:u1].astype(float)
    offsets = (np.arange(supersample) + 0.5) / supersample - 0.5
    total = np.zeros_like(uu)
    for du in offsets:
        for dv in offsets:
            part = scene.radiance(*scene.cam.bed(uu + du, vv + dv), patch)
            if hide is not None:
                part = np.where(hide(uu + du, vv + dv), 0.02, part)
            total += part
    out[v0:v1, u0:u1] = total / supersample**2


def render(
    scene: Scene,
    base: np.ndarray,
    patch: Field | None,
    *,
    patch_at: tuple[float, float] = (0.0, 0.0),
    patch_reach_m: float = 0.06,
    exposure: float = 1.0,
    supersample: int = 3,
    blur_px: float = 0.6,
    bloom: float = 0.0,
    noise_codes: float = 1.0,
    response: str = "srgb",
    glints: tuple = (),
    hide: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    rng: np.random.Generator,
    bits: int = 8,
) -> np.ndarray:
    """Return a grey image. ``glints``: (u, v, peak, sigma px); ``hide(u, v)`` True where something dark is in front."""
    w, h = scene.cam.size
    out = base.copy()
    v, u = np.mgrid[0:h, 0:w].astype(float)
    if hide is not None:
        out = np.where(hide(u, v), 0.02, out)
    if patch is not None:
        ring = [[patch_at[0] + a * patch_reach_m, patch_at[1] + b * patch_reach_m, 0] for a in (-1, 1) for b in (-1, 1)]
        p = scene.cam.project(np.array(ring))
        _supersampled(scene, out, (*np.floor(p.min(axis=0)), *np.ceil(p.max(axis=0))), patch, supersample, hide)
    out *= exposure
    for gu, gv, peak, sigma in glints:
        out += peak * np.exp(-((u - gu) ** 2 + (v - gv) ** 2) / (2 * sigma**2))
    if blur_px:
        out = gaussian_filter(out, blur_px)
    if bloom:
        out = (1 - bloom) * out + bloom * gaussian_filter(out, 12.0)
    lin = np.clip(out, 0, 1)
    code = (
        np.where(lin <= 0.0031308, 12.92 * lin, 1.055 * np.maximum(lin, 1e-9) ** (1 / 2.4) - 0.055)
        if response == "srgb"
        else lin
    )
    top = 2**bits - 1
    noisy = np.round(code * top + rng.normal(0, noise_codes * top / 255, code.shape))
    return np.clip(noisy, 0, top).astype(np.uint8 if bits == 8 else np.uint16)
