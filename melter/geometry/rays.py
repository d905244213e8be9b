"""Nine rays that stand for all the light of one lens: Gauss points of the aperture, and where each of them goes.

What belongs to a lens is worked out once; what its pose changes is a few dozen passes over arrays of (9, n), nine rays
of n lenses. Lens frame, metres, single precision: 0.1 um on the sand, at half the cost. Sums go through ``einsum``,
which adds up the rays of one lens in the same order in every batch of two or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from melter.geometry.optics import (
    DESIGN_INDEX,
    WAVELENGTHS_UM,
    acrylic_index,
    facet_normals,
    sun_variance_rad2,
    through_sheet,
)

Array = NDArray[np.float64]
Single = NDArray[np.float32]

COUNT = 9
"""Rays: three Gauss points along each edge, exact for polynomials of fifth degree in each."""


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nine rays of one lens, facing the sun."""

    place_m: Array
    """(2, 9) along the short and the long edge."""
    weight: Array
    """(9,) share of the power."""
    normal: Array
    """(3, 9) of facets that send light of the design index where the spectrum's mean goes."""
    refocus_m: Array
    """(2, 9) change of the direction behind the sheet by what is added to the lens's power, 1 / focal length."""
    colour: Array
    """(9,) standard deviation of a ray's slope by its colours, over the slope."""
    gain: float
    """Squared angle behind the sheet over squared angle before it, mean over aperture and axes."""
    widening: float
    """Area of a ray bundle's blur on a level sand over that on the axis, harmonic mean."""
    colour_shift: Array
    """(8,) change of the focal length, over itself, of eight equal parts of the spectrum."""
    focal_m: float
    """Focal length that the rays are computed for."""


@dataclass(frozen=True, eq=False)
class Spread:
    """The nodes' constants repeated over a batch of n, so that the arithmetic on them runs through plain memory."""

    place_m: Single
    """(2, 9, n)"""
    normal: Single
    """(3, 9, n)"""
    root_weight: Single
    """(9, n) square root of the share of the power."""
    weight: Single
    """(9, n)"""
    tint: Single
    """(9, n) ``colour`` times the root of the weight."""
    refocus_m: Single
    """(2, 9, n)"""
    colour_power: Single
    """(8, n) focal length over that of each eighth of the spectrum."""


@lru_cache(maxsize=64)
def lens_nodes(short_m: float, long_m: float, focal_m: float) -> Nodes:
    """Return the nine rays of a lens with these edges and grooves cut for this focal length."""
    points = np.array([-0.5, 0.0, 0.5]) * np.sqrt(0.6)
    share = np.array([5.0, 8.0, 5.0]) / 18
    place = np.stack(np.meshgrid(points * short_m, points * long_m, indexing="ij")).reshape(2, COUNT)
    level = np.zeros((3, COUNT))
    level[2] = -1.0
    normal = facet_normals(place[0], place[1], focal_m)
    out, passed = through_sheet(level[..., None], normal[..., None], acrylic_index(WAVELENGTHS_UM))
    slope = -out[:2] / out[2]
    weight = np.outer(share, share).reshape(COUNT) * passed.mean(axis=-1)
    weight /= weight.sum()
    mean_slope = slope.mean(axis=-1)
    square = np.square(slope).mean(axis=-1).sum(axis=0)
    off_axis = np.hypot(*place) > 0
    focus = np.hypot(*place[:, off_axis])[:, None] / np.hypot(*slope[:, off_axis])
    shift = np.average(focus / focal_m - 1, axis=0, weights=weight[off_axis])
    return Nodes(
        place_m=place,
        weight=weight,
        normal=facet_normals(-focal_m * mean_slope[0], -focal_m * mean_slope[1], focal_m),
        refocus_m=(_direction(mean_slope + 1e-4 * place) - _direction(mean_slope - 1e-4 * place)) / 2e-4,
        colour=np.sqrt(slope.var(axis=-1).sum(axis=0) / np.maximum(square, 1e-12)),
        gain=float((weight * _angular_gain(normal)).sum()),
        widening=float(1 / (weight * (1 + np.square(mean_slope).sum(axis=0)) ** -1.5).sum()),
        colour_shift=shift.reshape(8, -1).mean(axis=1),
        focal_m=focal_m,
    )


@lru_cache(maxsize=64)
def spread_nodes(short_m: float, long_m: float, focal_m: float, count: int) -> Spread:
    """Return the constants of :func:`lens_nodes` repeated for ``count`` lenses."""
    nodes = lens_nodes(short_m, long_m, focal_m)
    root = np.sqrt(nodes.weight)
    return Spread(
        place_m=_repeat(nodes.place_m, count),
        normal=_repeat(nodes.normal, count),
        root_weight=_repeat(root, count),
        weight=_repeat(nodes.weight, count),
        tint=_repeat(nodes.colour * root, count),
        refocus_m=_repeat(nodes.refocus_m, count),
        colour_power=_repeat(1 / (1 + nodes.colour_shift), count),
    )


def _direction(slope: Array) -> Array:
    """(2, ...) of unit vectors with these slopes, across the axis."""
    return slope / np.sqrt(1 + np.square(slope).sum(axis=0))


def _repeat(value: Array, count: int) -> Single:
    repeated = np.ascontiguousarray(np.broadcast_to(value[..., None], (*value.shape, count)), dtype=np.float32)
    repeated.setflags(write=False)
    return repeated


def _angular_gain(normal: Array) -> Array:
    """Mean over both axes of the squared change of the outgoing direction for a small change of the incoming one."""
    step = 1e-4
    base, _ = through_sheet(np.array([0.0, 0.0, -1.0])[:, None], normal, DESIGN_INDEX)
    total = np.zeros(normal.shape[1:])
    for axis in range(2):
        turned = np.array([0.0, 0.0, -np.sqrt(1 - step * step)])
        turned[axis] = step
        total += np.square((through_sheet(turned[:, None], normal, DESIGN_INDEX)[0] - base) / step).sum(axis=0)
    return total / 2


@dataclass(frozen=True, eq=False)
class Batch:
    """What does not change while a batch of n lenses of one kind moves."""

    nodes: Nodes
    spread: Spread
    refocus: Single
    """(2, 9, n) what the focal length's difference from the grooves' adds to the rays' directions."""
    blur: Single
    """(9, n) root of the weight times the standard deviation of the light's direction behind the lens."""
    focal_m: Array
    """(n,)"""
    core_rad2: Array
    """(n,) variance of the light's direction behind the lens, each axis, without the light from around the disc."""


def make_batch(
    edges_m: tuple[float, float], design_m: float, focal_m: Array, sun_rad2: Array, deflected_rad2: Array
) -> Batch:
    """Return what n lenses need: (n,) focal lengths, and variances of the sun's shape and of the grooves' errors."""
    nodes, spread = lens_nodes(*edges_m, design_m), spread_nodes(*edges_m, design_m, focal_m.size)
    return Batch(
        nodes=nodes,
        spread=spread,
        refocus=spread.refocus_m * (1 / focal_m - 1 / design_m).astype(np.float32),
        blur=spread.root_weight * np.sqrt(nodes.gain * sun_rad2 + deflected_rad2).astype(np.float32),
        focal_m=focal_m,
        core_rad2=nodes.gain * float(sun_variance_rad2(0.0)) + deflected_rad2,
    )


def ray_moments(batch: Batch, r: Single, sun_lens: Single, height: Single) -> tuple[Single, Single, Single, Single]:
    """Of n lenses (3, 3, n) to world, ``height`` (n,) above the sand: mean (2, n) of where the rays fall from below
    the lens centre; second moments (2, 2, n) about it, sharp and of what blurs them; and (n,) of a blur that is the
    same along world x and y. World frame.

    A ray from place p goes down by the way L = drop / steep to p - L d. A small turn of it, s each way, adds the
    covariance s^2 ((L d) (L d) / steep^2 + L^2 I). Colours change its slope behind the sheet, d / down, by a share.
    """
    constant = batch.spread
    back = _rays_back(batch, sun_lens)
    ray = np.einsum("jcn,ckn->jkn", r, back)
    place = np.einsum("jcn,ckn->jkn", r[:, :2], constant.place_m)
    way, steep, drop = ray[:2], ray[2], place[2]
    drop += height
    way *= drop / steep
    hit = place[:2]
    hit -= way
    mean = np.einsum("akn,kn->an", hit, constant.weight)
    hit -= mean[:, None]
    hit *= constant.root_weight
    spread = np.empty((2, 2 * COUNT, steep.shape[-1]), dtype=np.float32)
    blur = batch.blur / steep
    np.multiply(way, blur, out=spread[:, COUNT:])
    tinted = np.multiply(drop, (r[:2, 2] / r[2, 2])[:, None], out=spread[:, :COUNT])
    tinted -= way
    down = back[2]
    down *= constant.tint
    down *= r[2, 2]
    down /= steep
    tinted *= down
    blur *= drop
    sharp, blurred = np.einsum("akn,bkn->abn", hit, hit), np.einsum("akn,bkn->abn", spread, spread)
    return mean, sharp, blurred, np.einsum("kn,kn->n", blur, blur)


def _rays_back(batch: Batch, sun: Single) -> Single:
    """(3, 9, n) unit vectors along the rays behind the sheet, towards the lens, lens frame: Snell at both surfaces."""
    normal = batch.spread.normal
    cosine = np.einsum("ckn,cn->kn", normal, sun)
    bend = cosine * cosine
    bend += _INDEX2_LESS_1
    np.sqrt(bend, out=bend)
    bend -= cosine
    back = np.empty_like(normal)
    across, down = back[:2], back[2]
    np.multiply(normal[:2], bend, out=across)
    across += batch.refocus
    across += sun[:2, None]
    np.einsum("ckn,ckn->kn", across, across, out=down)
    np.subtract(1, down, out=down)
    np.sqrt(down, out=down)
    return back


_INDEX2_LESS_1 = np.float32(DESIGN_INDEX * DESIGN_INDEX - 1)
