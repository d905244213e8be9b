"""A controller that knows what no machine can know: where the spot truly is, and what each delay truly is.

Nobody can run it, but a network can learn from it (learning from a privileged teacher: Chen et al., CoRL 2019). Its action
is linear in the true errors, so that the network, which has to guess it from what a machine can measure, ends up with the action
for the best estimate of those errors: estimation is learnt, control is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.env.batch import SandMelterBatch
from melter.geometry.cables import cable_vectors_world_m
from melter.geometry.pose import work_centre_world_m

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TeacherGains:
    """Gains of the teacher."""

    spot_share: float = 0.25
    """Share of the spot error still expected when a command arrives that the command takes back."""
    length_share: float = 0.25
    """The same for what the spot does not tell: height, attitude and tensions, by the counters."""


class Teacher:
    """Action (n, 8) in [-1, 1] for the simulations of a batch, by their true state."""

    def __init__(self, gains: TeacherGains | None = None) -> None:
        self.gains = gains or TeacherGains()

    def act(self, batch: SandMelterBatch) -> NDArray[np.float32]:
        """Return what to do now."""
        machine, gains, values = batch.machine, self.gains, batch.values
        period_s, focus_m = machine.control.period_s, machine.lens.focal_length_m
        late = (values["action_delay_s"][:, 0] + values["motor_lag_s"][:, 0]) / period_s
        arrives, next_arrives = _path(batch, late), _path(batch, late + 1)
        now = _path(batch, np.zeros(batch.count))
        reference, builder = batch.reference, batch.builder
        centre = work_centre_world_m(now[:, :2], reference.sun_world, focus_m - now[:, 2], machine.sand.height_m)
        towards, _ = cable_vectors_world_m(
            machine.pulleys_world_m, machine.attachments_lens_m, centre, reference.rotation
        )
        plane = -towards[..., :2] / np.sqrt((towards * towards).sum(axis=-1, keepdims=True))
        pending = _pending_m(batch, late)
        lengths = builder.reference_lengths_m(arrives[:, :2], reference, arrives[:, 2])
        following = builder.reference_lengths_m(next_arrives[:, :2], reference, next_arrives[:, 2])
        length_error = lengths - batch.counted_m - pending
        spot_error = arrives[:, :2] - batch.patch[:, :2] - _explained(plane, pending)
        rest = length_error - _through(plane, _explained(plane, length_error))
        move = following - lengths + gains.spot_share * _through(plane, spot_error) + gains.length_share * rest
        speed = move / period_s / values["speed_gain"]
        return np.clip(speed / machine.limits.speed_normal_m_s, -1, 1).astype(np.float32)


def _path(batch: SandMelterBatch, ahead: Array) -> Array:
    """(n, 3) target and drop ``ahead`` (n,) control periods from now."""
    moment = np.minimum(batch.tick + ahead, batch.targets.shape[1] - 2)
    whole = moment.astype(np.intp)
    share, rows = (moment - whole)[:, None], np.arange(batch.count)
    return batch.targets[rows, whole] * (1 - share) + batch.targets[rows, whole + 1] * share


def _pending_m(batch: SandMelterBatch, late: Array) -> Array:
    """(n, 8) cable that past commands will still pay out, when each takes effect ``late`` (n,) periods after it was given."""
    kept = batch.commands_m_s.shape[1]
    share = np.clip(late[:, None] - np.arange(kept), 0.0, 1.0) * batch.machine.control.period_s
    return np.einsum("nk,nkw->nw", share, batch.commands_m_s) * batch.values["speed_gain"]


def _through(plane: Array, xy_m: Array) -> Array:
    """(n, 8) length changes for (n, 2) moves, ``plane`` (n, 8, 2)."""
    return np.einsum("nwi,ni->nw", plane, xy_m)


def _explained(plane: Array, lengths_m: Array) -> Array:
    """(n, 2) the move in the plane that explains (n, 8) length changes best."""
    normal = np.einsum("nwi,nwj->nij", plane, plane)
    return np.linalg.solve(normal, np.einsum("nwi,nw->ni", plane, lengths_m)[..., None])[..., 0]
