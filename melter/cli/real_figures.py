"""What ``melter real`` reports of its errors, and of what was learnt on the machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from melter.cli.common import plain
from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.loop.session import Result, Session
    from melter.machine import Machine
    from melter.policy.adapt import Adapter

SETTLING_S = 2.0
"""Left out of the error figures."""
ZERO_SHOT_S, WARM_S = 30.0, 5.0
"""The policy goes on as it is for so long before learning may enter: the figures before; and with what was learnt earlier."""
AFTER_S = 60.0
"""The last so long of a run gives the figures after learning."""


def learner_for(machine: Machine, *, no_learn: bool, learned: str | None) -> Adapter | None:
    """Return who learns on the machine, if anybody does; raise BadInput for what was learnt on another one."""
    from melter.policy.adapt import Adapter, AdaptSettings

    if no_learn:
        if learned is not None:
            raise BadInput("--learned: cannot be used with --no-learn")
        return None
    learner = Adapter(machine, AdaptSettings(watch_s=ZERO_SHOT_S if learned is None else WARM_S))
    if learned is not None:
        learner.take_up(_learned_file(learned))
    return learner


def _learned_file(learned: str) -> Path:
    """The file that --learned names, itself or by its run folder."""
    given = Path(learned)
    return given / "learned.json" if given.is_dir() else given


def take_up_pole(session: Session, learned: str | None) -> None:
    """Let a session without a place begin with the celestial pole that an earlier run found, if it did."""
    import json

    import numpy as np

    if session.pole is None or learned is None:
        return
    table = json.loads(_learned_file(learned).read_text(encoding="utf-8"))
    pole = np.array(table.get("pole_world", []), dtype=float)
    if pole.shape == (3,) and np.isfinite(pole).all() and np.linalg.norm(pole) < 1.5:
        session.pole.take_up(pole)


def before_and_after(learner: Adapter | None, session: Session, folder: Path) -> dict[str, Any]:
    """Return error figures before and after learning, and what was learnt, which goes into a file of its own as well."""
    from melter.policy.files import write_json

    rate_hz, result, used_from = session.machine.control.rate_hz, session.result, session.learning_from
    first = round(SETTLING_S * rate_hz)
    late_s = 0.0 if learner is None or used_from is None else learner.late_s
    whole = figures(result, rate_hz, first, late_s=late_s)
    if learner is None:
        return {"before": whole, "after": None, "learned": None}
    pole = {} if session.pole is None else {"pole_world": session.pole.pole_world, "pole_sd": session.pole.sd}
    write_json(folder / "learned.json", plain(learner.as_table() | pole))
    learned = {
        "file": str(folder / "learned.json"),
        "share": learner.share,
        "used_from_tick": used_from,
        "camera_late_s": late_s,
    }
    last = len(result.errors_mm) - round(AFTER_S * rate_hz)
    if used_from is None:  # nothing learnt was worth using: the policy went on as it was
        after = figures(result, rate_hz, max(first, last)) if whole["rms_mm"] is not None else None
        return {"before": whole, "after": after, "learned": learned}
    before = figures(result, rate_hz, first, used_from, late_s=late_s)
    after = figures(result, rate_hz, max(used_from + first, last), late_s=late_s)
    return {"before": before, "after": after, "learned": learned}


def figures(result: Result, rate_hz: float, first: int, end: int | None = None, late_s: float = 0.0) -> dict[str, Any]:
    """Return error figures as the camera saw them (mm), from error ``first`` to ``end``; None each without any.

    ``late_s``: how much later than said the camera is by all that was learnt. ``smooth_rms_mm``: of means over a second, where the
    camera's noise hardly shows.
    """
    import numpy as np

    xy = np.array(result.errors_xy_mm[first:end]) - late_s * np.array(result.speeds_mm_s[first:end])
    names = ("rms_mm", "p50_mm", "p95_mm", "max_mm", "smooth_rms_mm")
    if not len(xy):
        return dict.fromkeys(names)
    errors = np.hypot(xy[:, 0], xy[:, 1])
    second = max(min(round(rate_hz), len(xy)), 1)
    means = np.stack([np.convolve(xy[:, i], np.full(second, 1 / second), "valid") for i in range(2)])
    values = (
        np.sqrt(np.mean(errors**2)),
        np.median(errors),
        np.percentile(errors, 95),
        errors.max(),
        np.sqrt((means**2).sum(axis=0).mean()),
    )
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def told(table: dict[str, Any], folder: Path) -> str:
    """Return the figures and what was learnt as text."""
    text: list[str] = []
    for name, when in (("before", "spot error as the camera saw it"), ("after", "the same after learning")):
        row = table[name]
        if row is not None and row["rms_mm"] is not None:
            text.append(
                f"{when}: rms {row['rms_mm']:.2f} mm, p95 {row['p95_mm']:.2f} mm, max {row['max_mm']:.2f} mm; "
                f"of one-second means {row['smooth_rms_mm']:.2f} mm"
            )
    if table["learned"]:
        text.append(f"learnt: {table['learned']['file']}; the next run goes on from it with --learned {folder}")
    return "\n".join(text or ["no spot error measured"])
