"""What a camera's spot has of its own: white noise, and what comes and goes within seconds (wind on the lens)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]

WANDER_TIME_S = 2.0
"""Time constant of what comes and goes: the wind's."""
LEAST = 2e-5
"""No noise is taken to be smaller: metres, or shares."""


def whitened(rows: Array, t_s: Array, white: Array, wander: float) -> Array:
    """Return rows (k, ...) with the noise's correlation taken out: what is new in each, over its standard deviation.

    Noise: white with standard deviation ``white`` (k,), and a first-order process with ``wander``; same unit as the rows.
    The innovations of the Kalman filter that follows the latter; rows at increasing times ``t_s`` (k,).
    """
    out, deviation = innovations(rows, t_s, white, wander)
    return out / deviation.reshape(-1, *[1] * (rows.ndim - 1))


def slow(rows: Array, count: int) -> Array:
    """Return sums of ``count`` white rows (k, ...) at a time, over the root of ``count``: as white, and blind to what is quick."""
    whole = len(rows) // count * count
    return rows[:whole].reshape(whole // count, count, *rows.shape[1:]).sum(axis=1) / np.sqrt(count)


def noise_of(residual: Array, t_s: Array, share: Array, slopes: Array | None = None) -> tuple[float, float]:
    """Return the (white, wander) under which residuals (k, 1 or 2) are most likely; ``share`` (k,) is each frame's white noise
    over the typical.

    ``slopes`` (k, 1 or 2, p): of the residuals, by parameters with a unit Gaussian as prior, whatever these are; without
    them what was fitted to the residuals would be missing from the noise.
    Source of the latter: Patterson and Thompson, Biometrika 58 (1971).
    """
    step = np.diff(residual / share[:, None], axis=0)
    start = np.log(max(float(np.median(np.abs(step))) / 0.6745 / np.sqrt(2), LEAST))

    columns = residual[..., None] if slopes is None else np.concatenate([residual[..., None], slopes], axis=-1)

    def unlikely(x: Array) -> float:
        white, wander = np.exp(np.clip(x, np.log(LEAST), 0.0))
        new, deviation = innovations(columns, t_s, white * share, float(wander))
        rows = (new / deviation[:, None, None]).reshape(-1, columns.shape[-1])
        left, rows = rows[:, 0], rows[:, 1:]
        inverse = rows.T @ rows + np.eye(rows.shape[1])
        gained = rows.T @ left
        explained = float(gained @ np.linalg.solve(inverse, gained)) if len(gained) else 0.0
        spread = float(np.linalg.slogdet(inverse)[1]) if len(gained) else 0.0
        return residual.shape[1] * float(np.log(deviation).sum()) + 0.5 * (float(left @ left) - explained + spread)

    found = minimize(
        unlikely, (start, start - 0.7), method="Nelder-Mead", options={"maxfev": 40, "xatol": 0.02, "fatol": 0.1}
    )
    white, wander = np.exp(found.x)
    return max(float(white), LEAST), max(float(wander), LEAST)


def innovations(rows: Array, t_s: Array, white: Array, wander: float) -> tuple[Array, Array]:
    """What is new in each row (k, ...), and its standard deviation (k,)."""
    keep = np.exp(-np.diff(t_s, prepend=t_s[:1]) / WANDER_TIME_S)
    out, deviation = np.empty_like(rows), np.empty(len(rows))
    state, variance, slow2 = np.zeros(rows.shape[1:]), wander * wander, wander * wander
    for k, (share, white2) in enumerate(zip(keep.tolist(), (white * white).tolist(), strict=True)):
        variance = slow2 + share * share * (variance - slow2)
        total = variance + white2
        state = state * share
        new = out[k] = rows[k] - state
        state = state + new * (variance / total)
        deviation[k] = total
        variance *= white2 / total
    return out, np.sqrt(deviation)
