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
    u = ((r[:, 0] @ offset) * r[:, 2] + height * r[:, 0]) / radii_m[0]
    v = ((r[:, 1] @ offset) * r[:, 2] + height * r[:, 1]) / radii_m[1]
    cone = np.outer(u, u) + np.outer(v, v) - np.outer(r[:, 2], r[:, 2])
    drop = sand_height_m - float(focus[2])
    lift = np.array([1.0, 1.0, drop])
    quadric = cone * np.outer(lift, lift)
    quadric.setflags(write=False)
    if abs(drop) <= SAME * size:
        return _conic("point", focus[:2], np.zeros(2), 0.0, quadric)
    return _classify(cone, drop, focus[:2], quadric)


def _classify(cone: Array, drop: float, origin: Array, quadric: Array) -> Conic:
    """The conic of a cone about ``origin`` cut ``drop`` from its apex."""
    square, cross = cone[:2, :2], cone[:2, 2]
    values, vectors = np.linalg.eigh(square)
    scale = float(np.abs(values).max())
    if abs(values[0]) <= SAME * scale or abs(values[1]) <= SAME * scale:
        return _parabola(values, vectors, cross, float(cone[2, 2]), drop, origin, quadric)
    along = vectors.T @ cross / values
    centre = origin - drop * (vectors @ along)
    level = float(cone[2, 2] - (along * along * values).sum())
    squares = -level * drop * drop / values
    first = int(np.argmax(squares))
    kind: Kind = "ellipse" if values[0] * values[1] > 0 else "hyperbola"
    axes = np.sqrt(np.abs(squares[[first, 1 - first]]))
    return _conic(kind, centre, axes, _angle(vectors[:, first]), quadric)


def _parabola(
    values: Array, vectors: Array, cross: Array, level: float, drop: float, origin: Array, quadric: Array
) -> Conic:
    """Curve value * b^2 + 2 drop (ca a + cb b) + level drop^2 = 0 with a along the axis."""
    flat = int(np.argmin(np.abs(values)))
    axis, side = vectors[:, flat], vectors[:, 1 - flat]
    value, ca, cb = float(values[1 - flat]), float(axis @ cross), float(side @ cross)
    b = -drop * cb / value
    a = (value * b * b - level * drop * drop) / (2 * drop * ca)
    twice_focal = abs(drop * ca / value)
    return _conic("parabola", origin + a * axis + b * side, np.full(2, twice_focal), _angle(axis), quadric)


def _conic(kind: Kind, centre: Array, axes: Array, angle: float, quadric: Array) -> Conic:
    centre = np.array(centre)
    for array in (centre, axes):
        array.setflags(write=False)
    return Conic(kind, centre, axes, angle, quadric)


def _angle(direction: Array) -> float:
    """Angle of a line from world x, in (-pi/2, pi/2]."""
    angle = float(np.arctan2(direction[1], direction[0]))
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
