"""The light cone cut by the sand: the exact conic, and the outline of the real rectangular aperture.

The cone's apex is the focus, its base the rim of the aperture: an ellipse (or circle) about the lens centre in the
lens plane. The sand is the level plane at some height. World frame, metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.errors import NoEllipse

Array = NDArray[np.float64]
Kind = Literal["ellipse", "parabola", "hyperbola", "point"]

FOCUS_TILT_EXPONENT = 1.3
"""The focus lies focal length times cos(tilt)^1.3 down the sun's ray (ray trace; ``melter.geometry.trace``)."""
SAME = 1e-12
"""Relative size below which a quantity of the cut counts as zero."""


@dataclass(frozen=True, eq=False)
class Conic:
    """What the sand plane cuts from the cone; both nappes belong to it. World x and y, metres."""

    kind: Kind
    centre_world_m: Array
    """(2,) centre; the vertex of a parabola."""
    semi_axes_m: Array
    """(2,) ellipse: large, small; hyperbola: half its width between the branches, and the conjugate one; parabola: the
    distance from vertex to focus, twice; point: zeros."""
    angle_rad: float
    """Of the first semi-axis from world x, counterclockwise, in (-pi/2, pi/2]; a parabola's axis."""
    quadric: Array
    """(3, 3) symmetric: (x, y, 1) Q (x, y, 1) = 0 on the curve, x and y measured from the focus."""


def focus_world_m(
    focal_length_m: ArrayLike, centre_world_m: ArrayLike, rotation: ArrayLike, sun_world: ArrayLike
) -> Array:
    """Return the (..., 3) best focus of lenses at (..., 3), rotation (..., 3, 3), under (..., 3) unit suns."""
    sun, axis = np.asarray(sun_world, dtype=float), np.asarray(rotation, dtype=float)[..., 2]
    cosine = np.maximum((sun * axis).sum(axis=-1), 0.0)
    pulled = np.asarray(focal_length_m) * cosine**FOCUS_TILT_EXPONENT
    return np.asarray(centre_world_m, dtype=float) - pulled[..., None] * sun


def cut_cone(
    focus_m: ArrayLike,
    centre_world_m: ArrayLike,
    rotation: ArrayLike,
    radii_m: tuple[float, float],
    sand_height_m: float = 0.0,
) -> Conic:
    """Return the conic that the plane z = ``sand_height_m`` cuts from the cone of one lens.

    ``focus_m`` (3,) is the apex; the rim has semi-axes ``radii_m`` along lens x and y about the lens centre (3,), in
    the lens plane of ``rotation`` (3, 3). A point if the focus lies on the sand. Raises NoEllipse where the focus lies
    in the lens plane: there is no cone. Source: Semple and Kneebone, Algebraic Projective Geometry, ch. 5.
    """
    focus, centre = np.asarray(focus_m, dtype=float), np.asarray(centre_world_m, dtype=float)
    r = np.asarray(rotation, dtype=float)
    offset = focus - centre
    height = -float(r[:, 2] @ offset)
    size = float(np.sqrt(offset @ offset)) + max(radii_m)
    if not abs(height) > SAME * size:
        raise NoEllipse(f"focus {height:g} m from the lens plane: must be away from it, else there is no light cone")
    u, v, n = _rim(offset.astype(np.longdouble), r.astype(np.longdouble), radii_m)
    cone = np.outer(u, u) + np.outer(v, v) - np.outer(n, n)
    drop = np.longdouble(sand_height_m) - np.longdouble(focus[2])
    lift = np.array([1.0, 1.0, drop])
    quadric = (cone * np.outer(lift, lift)).astype(np.float64)
    quadric.setflags(write=False)
    if abs(drop) <= SAME * size:
        return _conic("point", focus[:2], np.zeros(2), 0.0, quadric)
    flat = _cross_z(u, v) ** 2 - (_cross_z(u, n) ** 2 + _cross_z(v, n) ** 2)
    volume = u[0] * _cross_x(v, n) + u[1] * _cross_y(v, n) + u[2] * _cross_z(v, n)
    return _classify(cone, flat, volume, drop, focus[:2], quadric)


def _rim(offset: Any, r: Any, radii_m: tuple[float, float]) -> tuple[Any, Any, Any]:
    """Three vectors: a direction x from the focus lies on the cone where (u x)^2 + (v x)^2 = (n x)^2."""
    along, across, n = r[:, 0], r[:, 1], r[:, 2]
    height = -(n @ offset)
    u = ((along @ offset) * n + height * along) / radii_m[0]
    v = ((across @ offset) * n + height * across) / radii_m[1]
    return u, v, n


def _cross_x(a: Any, b: Any) -> Any:
    return a[1] * b[2] - a[2] * b[1]


def _cross_y(a: Any, b: Any) -> Any:
    return a[2] * b[0] - a[0] * b[2]


def _cross_z(a: Any, b: Any) -> Any:
    return a[0] * b[1] - a[1] * b[0]


def _classify(cone: Any, flat: Any, volume: Any, drop: Any, origin: Array, quadric: Array) -> Conic:
    """The conic of a cone about ``origin`` cut ``drop`` from its apex.

    ``flat`` is the determinant of the cone's level part, ``volume`` squared minus that of the cone: taken from the
    vectors the cone is made of, they lose nothing where the curve is nearly a parabola.
    """
    a, b, c = cone[0, 0], cone[0, 1], cone[1, 1]
    mean, radius = (a + c) / 2, np.hypot((a - c) / 2, b)
    high = mean + radius if mean >= 0 else mean - radius
    scale, round_ = abs(high), radius <= SAME * abs(high)
    turn = 0.0 if round_ else float(np.arctan2(b, (a - c) / 2) / 2 + np.pi / 2)
    if abs(flat) <= SAME * scale * scale:
        return _parabola(cone, turn, drop, origin, quadric)
    shift = -drop / flat * np.array([c * cone[0, 2] - b * cone[1, 2], a * cone[1, 2] - b * cone[0, 2]])
    reach = abs(volume * drop)
    across_high, across_low = reach / np.sqrt(abs(flat * high)), reach * np.sqrt(scale) / abs(flat)
    # Along the axis at ``turn`` the level part is smallest: an ellipse is longest there, a hyperbola opens.
    lowest_is_high = mean < 0
    axes = (across_high, across_low) if lowest_is_high else (across_low, across_high)
    kind: Kind = "ellipse" if flat > 0 else "hyperbola"
    centre = (origin + shift).astype(np.float64)
    return _conic(kind, centre, np.array(axes, dtype=np.float64), _folded(turn), quadric)


def _parabola(cone: Any, turn: float, drop: Any, origin: Array, quadric: Array) -> Conic:
    """Curve value * b^2 + 2 drop (ca a + cb b) + level drop^2 = 0 with a along the axis, b across."""
    axis = np.array([np.cos(turn), np.sin(turn)])
    side, cross = np.array([-axis[1], axis[0]]), cone[:2, 2]
    value, ca, cb, level = side @ cone[:2, :2] @ side, axis @ cross, side @ cross, cone[2, 2]
    b = -drop * cb / value
    a = (value * b * b - level * drop * drop) / (2 * drop * ca)
    vertex = (origin + a * axis + b * side).astype(np.float64)
    return _conic("parabola", vertex, np.full(2, abs(float(drop * ca / value))), _folded(turn), quadric)


def _conic(kind: Kind, centre: Array, axes: Array, angle: float, quadric: Array) -> Conic:
    centre = np.array(centre)
    for array in (centre, axes):
        array.setflags(write=False)
    return Conic(kind, centre, axes, angle, quadric)


def _folded(angle: float) -> float:
    """Angle of a line from world x, in (-pi/2, pi/2]."""
    turned = angle - np.pi if angle > np.pi / 2 else angle
    return turned + np.pi if turned <= -np.pi / 2 else turned


def outline_world_m(
    focus_m: ArrayLike,
    points_lens_m: ArrayLike,
    centre_world_m: ArrayLike,
    rotation: ArrayLike,
    sand_height_m: float = 0.0,
) -> Array:
    """Return where rays from (..., 2) aperture points (lens x, y) through the focus meet the sand, world (..., 2).

    Raises NoEllipse where such a ray does not come down: the aperture reaches below the focus.
    """
    r, focus = np.asarray(rotation, dtype=float), np.asarray(focus_m, dtype=float)
    points = np.asarray(points_lens_m, dtype=float)
    start = np.asarray(centre_world_m, dtype=float) + points @ r[:, :2].T
    rise = start[..., 2] - focus[2]
    if not (rise > 0).all():
        raise NoEllipse(
            f"aperture {float(rise.min()):g} m above the focus: must be above 0 m for its light to come down"
        )
    share = (focus[2] - sand_height_m) / rise
    return focus[:2] - share[..., None] * (start[..., :2] - focus[:2])


def lit_outline_world_m(
    focus_m: ArrayLike,
    rim_lens_m: ArrayLike,
    centre_world_m: ArrayLike,
    rotation: ArrayLike,
    sand_height_m: float = 0.0,
    reach_m: float = 10.0,
) -> Array:
    """Return the (n, 2) corners of the sharp light of a convex aperture (k, 2 corners, lens x and y) on the sand.

    What lies more than ``reach_m`` from the lens, along world x or y, is cut off: where the aperture reaches below the
    focus, its light passes the horizon. Empty where no light comes down. The corners are clipped as homogeneous
    points, on straight edges, before any division (Sutherland and Hodgman, Communications of the ACM 17, 1974).
    """
    r, focus, centre = (np.asarray(a, dtype=float) for a in (rotation, focus_m, centre_world_m))
    start = centre + np.asarray(rim_lens_m, dtype=float) @ r[:, :2].T
    rise, drop = start[:, 2] - focus[2], focus[2] - sand_height_m
    across = rise[:, None] * (focus[:2] - centre[:2]) - drop * (start[:, :2] - focus[:2])
    points = np.column_stack([across, rise, start[:, 2] - sand_height_m])
    edges = [
        (0, 0, 1, 0),
        (0, 0, 0, 1),
        (1, 0, reach_m, 0),
        (-1, 0, reach_m, 0),
        (0, 1, reach_m, 0),
        (0, -1, reach_m, 0),
    ]
    for edge in edges:
        points = _clipped(points, points @ np.array(edge, dtype=float))
    points = points[points[:, 2] > 0]
    return centre[:2] + points[:, :2] / points[:, 2:3]


def _clipped(points: Array, inside: Array) -> Array:
    """The part of a closed polygon (n, d) where ``inside`` (n,), linear along its edges, is not negative."""
    kept: list[Array] = []
    for i in range(len(points)):
        before, here = inside[i - 1], inside[i]
        if (before < 0) != (here < 0):
            kept.append(points[i - 1] + before / (before - here) * (points[i] - points[i - 1]))
        if here >= 0:
            kept.append(points[i])
    return np.array(kept).reshape(-1, points.shape[1])


def ellipse_lens_m(radii_m: tuple[float, float], corners: int = 256) -> Array:
    """Return (corners, 2) points on the rim of a round aperture, counterclockwise seen from the sun, lens x and y."""
    turn = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([radii_m[0] * np.cos(turn), radii_m[1] * np.sin(turn)], axis=-1)


def sharp_peak_w_m2(
    power_w: float,
    focus_m: ArrayLike,
    rim_lens_m: ArrayLike,
    centre_world_m: ArrayLike,
    rotation: ArrayLike,
    sand_height_m: float = 0.0,
) -> float:
    """Return the highest irradiance of the sharp light of an aperture of (k, 2) corners: where its highest corner's falls.

    The image of a place ``rise`` above the focus is drop^2 * distance / rise^3 times as large, with the focus ``drop``
    above the sand and ``distance`` from the lens plane. Infinite for a focus on the sand, 0 where no light comes down.
    """
    r, focus, centre = (np.asarray(a, dtype=float) for a in (rotation, focus_m, centre_world_m))
    rim = np.asarray(rim_lens_m, dtype=float)
    rise = float((centre + rim @ r[:, :2].T)[:, 2].max() - focus[2])
    drop, distance = float(focus[2]) - sand_height_m, abs(float(r[:, 2] @ (centre - focus)))
    image = drop * drop * distance
    if rise <= 0 or power_w <= 0:
        return 0.0
    return power_w / float(outline_polygon(rim).area) * rise**3 / image if image > 0 else float("inf")


def sharp_irradiance_w_m2(
    places_world_m: ArrayLike,
    power_w: float,
    edges_m: tuple[float, float],
    focus_m: ArrayLike,
    centre_world_m: ArrayLike,
    rotation: ArrayLike,
    sand_height_m: float = 0.0,
) -> Array:
    """Return the irradiance (...) of the sharp light of a rectangular aperture at (..., 2) places on the sand."""
    r, focus, centre = (np.asarray(a, dtype=float) for a in (rotation, focus_m, centre_world_m))
    places, drop = np.asarray(places_world_m, dtype=float), float(focus[2]) - sand_height_m
    back = np.concatenate([focus[:2] - places, np.full((*places.shape[:-1], 1), drop)], axis=-1)
    distance = float(r[:, 2] @ (centre - focus))
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = distance / (back @ r[:, 2])
        on_lens = (focus - centre + reach[..., None] * back) @ r
        rise = reach * drop
        flux = power_w / (edges_m[0] * edges_m[1]) * rise**3 / (drop * drop * abs(distance))
    lit = (np.abs(on_lens[..., 0]) <= edges_m[0] / 2) & (np.abs(on_lens[..., 1]) <= edges_m[1] / 2) & (rise > 0)
    return np.where(lit, flux, 0.0)


def rectangle_lens_m(short_edge_m: float, long_edge_m: float) -> Array:
    """Return the (4, 2) corners of the aperture, counterclockwise seen from the sun, lens x and y."""
    a, b = short_edge_m / 2, long_edge_m / 2
    return np.array([(-a, -b), (a, -b), (a, b), (-a, b)])


def outline_polygon(corners_world_m: ArrayLike) -> Any:
    """Return the shapely polygon of (n, 2) corners on the sand (a projective image of a convex aperture is convex)."""
    from shapely.geometry import Polygon

    return Polygon(np.asarray(corners_world_m, dtype=float))


def matching_radii_m(short_edge_m: float, long_edge_m: float) -> tuple[float, float]:
    """Return the semi-axes of the ellipse with the same second moments as the rectangle: edge / sqrt(3)."""
    return short_edge_m / float(np.sqrt(3)), long_edge_m / float(np.sqrt(3))
