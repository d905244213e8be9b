"""A calibrated machine file: the original's table with what was found in its place, as TOML that says how well it is known."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from melter.calibration.fit import Posterior
from melter.calibration.report import INTERVAL, Finding
from melter.env.params import QUANTITIES, Quantity
from melter.errors import BadInput, MachineFileError
from melter.machine import Machine, machine_from_table

Array = NDArray[np.float64]
Table = dict[str, Any]

PLACES: dict[str, tuple[str, str]] = {
    "cable_stiffness_n": ("drive", "cable_stiffness_n"),
    "cable_damping_ratio": ("drive", "cable_damping_ratio"),
    "cable_creep": ("drive", "cable_creep"),
    "pulley_loss": ("drive", "pulley_loss"),
    "pulley_friction_n": ("drive", "pulley_friction_n"),
    "pulley_radius_m": ("drive", "pulley_radius_m"),
    "backlash_m": ("drive", "backlash_m"),
    "motor_lag_s": ("drive", "motor_lag_s"),
    "moving_mass_kg": ("lens", "moving_mass_kg"),
    "focal_length_m": ("lens", "focal_length_m"),
    "pole_flex_m_per_n": ("frame", "pole_flex_m_per_n"),
    "bed_height_m": ("sand", "height_m"),
    "seen_delay_s": ("control", "camera_delay_s"),
}
"""Where quantities of one number stand in a machine file."""
PLACED = ("pulley_m", "attachment_m", "centre_of_mass_m")
"""Those of several numbers that stand there too."""
LINK_KNOWN_S = 0.010
"""How far the delay from command to counters is off at most."""
DIGITS = 6
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def calibrated_table(machine: Machine, posterior: Posterior, link_s: float) -> tuple[Table, dict[str, str]]:
    """Return a machine file's table with what was found, and remarks by key's path; ``link_s``: command to counters.

    What a machine file has no place for (drums one by one, cables' zeros) is left to the report. Raises BadInput where what was found
    makes no possible machine.
    """
    parameters = posterior.parameters
    values = {name: value[0] for name, value in parameters.values(posterior.u).items()}
    table: Table = copy.deepcopy(machine.model_dump(exclude_none=True))
    deviation = parameters.spread * np.sqrt(np.diag(posterior.covariance))
    remarks: dict[str, str] = {}
    for name, (part, key) in PLACES.items():
        one = float(deviation[parameters.slice_of(name)][0])
        table[part][key] = _rounded(float(values[name][0]))
        one *= float(values[name][0]) if name == "cable_stiffness_n" else 1.0
        remarks[f"{part}.{key}"] = f"± {INTERVAL * one:.2g} (90 %)"
    drive, gain = cast(Table, table["drive"]), float(values["drum_gain"][0])
    drive["drum_radius_m"] = _rounded(machine.drive.drum_radius_m * gain)
    remarks["drive.drum_radius_m"] = "mean of the eight"
    remarks["drive.steps_per_mm"] = (
        f"as the board has it; {machine.drive.steps_per_mm / gain:.3f} would make counted cable true"
    )
    table["control"]["action_delay_s"] = _rounded(link_s)
    remarks["control.action_delay_s"] = "command to counters"
    table["lens"]["centre_of_mass_lens_m"] = _list(values["centre_of_mass_m"])
    for number, winch in enumerate(cast("list[Table]", list(table["winch"]))):
        winch["pulley_world_m"] = _list(values["pulley_m"].reshape(-1, 3)[number])
        winch["attachment_lens_m"] = _list(values["attachment_m"].reshape(-1, 3)[number])
    try:
        machine_from_table(table, f"calibrated {machine.name}")
    except MachineFileError as error:
        raise BadInput(f"calibration: what was found makes no machine: {error}") from None
    return table, remarks


def narrowed_table(posterior: Posterior, link_s: float) -> str:
    """Return a randomisation table (TOML) for training with the calibrated machine file: the whole table, drawn in to what is known now.

    Even ranges with the posterior's mean and standard deviation, inside the original ones; what the fit does not tell, and what differs from
    winch to winch without a place in a machine file, stays as wide as it was. ``link_s``: command to counters.
    """
    lines = ["# What is not known of this machine after its calibration; to be used with the calibrated machine file."]
    for quantity in QUANTITIES:
        kind, low, high = _narrowed(quantity, posterior, link_s)
        size = f", size = {quantity.size}" if quantity.size > 1 else ""
        lines.append(
            f'{quantity.name} = {{ unit = "{quantity.unit}", kind = "{kind}", low = {low:.6g}, high = {max(low, high):.6g}{size} }}'
        )
    return "\n".join(lines) + "\n"


def _narrowed(quantity: Quantity, posterior: Posterior, link_s: float) -> tuple[str, float, float]:
    """Kind, low and high of one quantity of the table."""
    parameters = posterior.parameters
    deviation = np.sqrt(np.diag(posterior.covariance))
    if quantity.name == "action_delay_s":
        return "absolute", max(link_s - LINK_KNOWN_S, 0.0), link_s + LINK_KNOWN_S
    fitted = "seen_delay_s" if quantity.name == "camera_delay_s" else quantity.name
    if fitted not in {known.name for known in parameters.quantities}:
        return quantity.kind, quantity.low, quantity.high
    at = parameters.slice_of(fitted)
    if quantity.size > 1:  # around what the machine file has now, the same range for all
        if quantity.name not in PLACED:
            return quantity.kind, quantity.low, quantity.high
        half = float(np.sqrt(3 * np.mean((parameters.spread[at] * deviation[at]) ** 2)))
        return "offset", max(-half, quantity.low), min(half, quantity.high)
    half = np.sqrt(3) * min(float(deviation[at][0]), 1.0)
    middle = float(np.clip(posterior.u[at][0], -np.sqrt(3) + half, np.sqrt(3) - half))
    low, high = (float((parameters.mean[at] + parameters.spread[at] * (middle + side * half))[0]) for side in (-1, 1))
    if quantity.kind == "log":
        low, high = float(np.exp(low)), float(np.exp(high))
    return "absolute", max(low, 0.0) if quantity.low >= 0 else low, high


def to_toml(table: Mapping[str, Any], remarks: Mapping[str, str], heading: str) -> str:
    """Return a machine file's table as TOML with remarks behind its values; one level of tables and lists of tables."""
    lines = [*(f"# {line}" for line in heading.splitlines()), ""]
    _write(lines, table, "", remarks)
    return "\n".join(lines) + "\n"


def confidence(found: list[Finding], winches: list[str]) -> dict[str, Any]:
    """Return what was found as plain data: value, 90 % interval, deviation before and after; lists in winch order."""
    return {
        "level": 0.9,
        "winches": winches,
        **{
            row.name: {
                "unit": row.unit,
                "value": _one(row.value),
                "low": _one([v - INTERVAL * d for v, d in zip(row.value, row.deviation, strict=True)]),
                "high": _one([v + INTERVAL * d for v, d in zip(row.value, row.deviation, strict=True)]),
                "deviation": _one(row.deviation),
                "prior_deviation": _one(row.prior),
            }
            for row in found
        },
    }


def _one(numbers: list[float]) -> float | list[float]:
    return numbers[0] if len(numbers) == 1 else numbers


def _write(lines: list[str], table: Mapping[str, Any], path: str, remarks: Mapping[str, str]) -> None:
    """Values first, then tables, then lists of tables."""
    parts = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    rows = {key: value for key, value in table.items() if _is_rows(value)}
    for key, value in table.items():
        if key not in parts and key not in rows:
            remark = remarks.get(f"{path}.{key}".lstrip("."))
            lines.append(f"{_key(key)} = {_text(value)}" + (f"  # {remark}" if remark else ""))
    for key, part in parts.items():
        inner = f"{path}.{_key(key)}".lstrip(".")
        lines += ["", f"[{inner}]"]
        _write(lines, cast("Mapping[str, Any]", part), inner, remarks)
    for key, several in rows.items():
        inner = f"{path}.{_key(key)}".lstrip(".")
        for row in several:
            lines += ["", f"[[{inner}]]"]
            _write(lines, row, inner, remarks)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)  # pyright: ignore[reportUnknownVariableType]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(item) for item in cast("list[Any]", value)) + "]"
    return repr(value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _list(values: Array) -> list[float]:
    return [_rounded(float(value)) for value in values]
