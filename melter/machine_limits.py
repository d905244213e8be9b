"""What the limits of a machine file must be to each other and to its geometry: limits that can be kept.

Every function takes a whole ``melter.machine.Machine`` and raises ValueError like those of ``melter.machine_rules``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from melter.machine_rules import named_poses, require, sun_world

if TYPE_CHECKING:
    from melter.machine import Machine

Array = NDArray[np.float64]

KEEP_IN_MARGIN_M = 0.05
"""Between the working area and the keep-in polygon, where the file gives none."""
CREEP_M_S = 0.003
"""Fastest feed while melting; what power must allow at the highest tension."""
LATE_PERIODS = 2
"""Periods that a command may come late (``melter.safety.limiter``)."""
UM = 1e-6
"""The safety layer counts whole micrometres per control period."""


def require_lengths(machine: Machine) -> None:
    """Refuse limits of the cables' length within which the machine cannot park, or cannot brake."""
    limits, drive, control = machine.limits, machine.drive, machine.control
    period_s = control.period_s
    speed, step = limits.speed_max_m_s * period_s, limits.acceleration_max_m_s2 * period_s**2
    slowest = min(limits.speed_normal_m_s * period_s, step)
    require(
        slowest >= UM,
        f"limits.speed_normal_m_s = {limits.speed_normal_m_s}, limits.acceleration_max_m_s2 = "
        f"{limits.acceleration_max_m_s2}: less than one micrometre in a control period at control.rate_hz = "
        f"{control.rate_hz}; must be at least {UM / period_s:g} m/s and {UM / period_s**2:g} m/s2",
    )
    unseen_s = (1 + LATE_PERIODS) * period_s + control.action_delay_s + drive.motor_lag_s
    margin_m = limits.speed_max_m_s * unseen_s
    low_m = limits.cable_length_min_m + margin_m
    high_m = limits.cable_length_max_m / (1 + limits.tension_max_n / drive.cable_stiffness_n) - margin_m
    whole = math.floor(speed / step)
    braking_m = speed * (whole + 1) - step * whole * (whole + 1) / 2
    require(
        2 * braking_m < high_m - low_m,
        f"limits.acceleration_max_m_s2 = {limits.acceleration_max_m_s2}: braking from speed_max_m_s = "
        f"{limits.speed_max_m_s} takes {braking_m:.3f} m at control.rate_hz = {control.rate_hz}, must be below half the "
        f"{max(high_m - low_m, 0):.3f} m of cable that limits.cable_length_min_m = {limits.cable_length_min_m} and "
        f"cable_length_max_m = {limits.cable_length_max_m} leave, less the way during delays",
    )
    centre = np.array(machine.park.lens_centre_world_m)
    lengths = np.linalg.norm(machine.pulleys_world_m - machine.attachments_lens_m - centre, axis=1)
    for winch, length_m in zip(machine.winch, lengths, strict=True):
        require(
            low_m < length_m < high_m,
            f"winch {winch.name}: {length_m:.3f} m of cable at park, must lie between {low_m:.3f} and {high_m:.3f} m: "
            f"limits.cable_length_min_m = {limits.cable_length_min_m} and cable_length_max_m = "
            f"{limits.cable_length_max_m}, less stretch and the way during delays",
        )


def require_power(machine: Machine) -> None:
    """Refuse power with which the winches cannot even creep along at the highest tension."""
    limits = machine.limits
    speed_m_s = max(CREEP_M_S, UM * machine.control.rate_hz)
    need_w = limits.tension_max_n * speed_m_s
    for name, power_w, least_w in (
        ("power_max_w", limits.power_max_w, need_w),
        ("power_total_max_w", limits.power_total_w, len(machine.winch) * need_w),
    ):
        require(
            power_w >= least_w,
            f"limits.{name} = {power_w:g}: creeping at {speed_m_s * 1e3:g} mm/s at limits.tension_max_n = "
            f"{limits.tension_max_n} takes {least_w:.3g} W, must be at least that",
        )


def require_keep_in(machine: Machine) -> None:
    """Refuse a keep-in polygon that crosses itself, or in which a spot at normal speed cannot be stopped in time."""
    limits, control, bed = machine.limits, machine.control, machine.bed
    unseen_s = control.period_s + control.action_delay_s + control.camera_delay_s + machine.drive.motor_lag_s
    speed = limits.speed_normal_m_s
    travel_m = speed * unseen_s + speed**2 / (2 * limits.acceleration_max_m_s2)
    told = (
        f"limits.acceleration_max_m_s2 = {limits.acceleration_max_m_s2}, control.rate_hz = {control.rate_hz}, "
        f"limits.speed_normal_m_s = {speed}"
    )
    if bed.keep_in_world_m is None:
        least_m = KEEP_IN_MARGIN_M
        require(
            travel_m < least_m,
            f"{told}: {travel_m:.3f} m of cable run between a spot being seen and its standing still, must be below the "
            f"{least_m:g} m between the bed's working area and its keep-in polygon",
        )
    spot_m = travel_m * _spot_per_cable(machine)
    polygon = bed.keep_in_polygon_world_m
    wide_m = _half_width_m(polygon) if bed.keep_in_world_m is not None else min(bed.size_m) / 2 + KEEP_IN_MARGIN_M
    require(
        spot_m < wide_m,
        f"{told}: the spot covers {spot_m:.3f} m between being seen and standing still, must be below "
        f"{wide_m:.3f} m, what the keep-in polygon (bed.keep_in_world_m or bed.size_m) has to all sides of its middle",
    )


LIMITS = (require_lengths, require_power, require_keep_in)
"""Every rule of this file, in the order in which they are asked."""


def _spot_per_cable(machine: Machine) -> float:
    """Fastest the spot moves, per cable speed of eight winches, at work over the bed's middle and corners."""
    sun = sun_world(machine)
    _, centre, rotation = named_poses(machine)[1]
    half_x, half_y = machine.bed.size_m[0] / 2, machine.bed.size_m[1] / 2
    arms = machine.attachments_lens_m @ rotation.T
    rows = np.array([[1, 0, -sun[0] / sun[2], 0, 0, 0], [0, 1, -sun[1] / sun[2], 0, 0, 0]])
    fastest = 0.0
    for x, y in ((0.0, 0.0), *((i * half_x, j * half_y) for i in (-1, 1) for j in (-1, 1))):
        way = centre + np.array([x, y, 0.0]) + arms - machine.pulleys_world_m
        unit = way / np.linalg.norm(way, axis=1)[:, None]
        spot = rows @ np.linalg.pinv(np.hstack([unit, np.cross(arms, unit)]))
        fastest = max(fastest, float(np.hypot(*np.abs(spot).sum(axis=1))))
    return fastest


def _half_width_m(polygon: Array) -> float:
    """Radius of the largest circle inside a simple polygon (n, 2); raises ValueError where its sides cross."""
    import shapely

    shape = shapely.Polygon(polygon)
    require(shape.is_valid, f"bed.keep_in_world_m = {polygon.tolist()}: its sides cross, must be a simple polygon")
    return float(shapely.maximum_inscribed_circle(shape).length)
