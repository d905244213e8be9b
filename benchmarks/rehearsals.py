"""Whole runs on rehearsal machines with hidden parameters, under a virtual clock: how good before and after learning.

Usage: python benchmarks/rehearsals.py [--seeds 10] [--minutes 6] [--feed MM_S] [--model RUN] [--harder] [--pictures] [--jobs 1] [--event gust|gain]

Each seed is run twice, without and with learning, by the same session, gate, driver protocol, firmware and machine as `melter twin`
and `melter real`. By the truth: RMS spot error where light melts, in the first half minute on the path (what the policy does as it is)
and in the last minute. `seen`: how far the tracker's centre lies
from the true one, all frames, and of means over 2 s, which no controller can take out. --pictures renders every frame and tracks
it, at about the speed of the real thing; without, the patch is told with the hidden camera's delay, jitter, loss and noise.
--harder: geometry, drums, zeros, backlash three times as far from the drawing as the table of randomisation allows. --event: in the middle of the
run a gust of twice the wind, or one winch's drum that suddenly gains 10 % more cable; reported is after what time the error (half-second means)
first stays below twice what it was in the half minute before, for 2 s. Without --model: the classical servo. --used FILE: the machine file that
controller, gate and policy go by, such as a calibrated one, while the rehearsal machine stays what it is; --report FILE: a calibration's report,
by which counted lengths are turned into true ones, drum by drum and with each cable's zero, before the policy sees them. `{seed}` in --used,
--model and --report stands for the seed.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.env.params import nominal_values
from melter.geometry.paths import parse_path
from melter.hw.real_robot import RealRobot
from melter.loop.session import Session
from melter.loop.truth import spot_errors
from melter.machine import Machine, load_machine
from melter.observation import Measurement
from melter.policy.adapt import Adapter, AdaptSettings
from melter.policy.load import load_for
from melter.policy.servo import Servo
from melter.safety.gate import Gate
from melter.twin.machine import hidden_values
from melter.twin.virtual import VirtualOptions, VirtualTwin

BEFORE_S, AFTER_S, SLOW_S = 30.0, 60.0, 2.0
HARDER = (
    "pulley_m",
    "attachment_m",
    "centre_of_mass_m",
    "drum_gain",
    "drum_spread",
    "zero_position_m",
    "zero_attitude_rad",
    "zero_tension_n",
    "backlash_m",
)
FURTHER = 3.0
BACK_BELOW = 2.0
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Job:
    """One run."""

    seed: int
    learn: bool
    minutes: float
    feed_mm_s: float
    model: str | None
    harder: bool
    pictures: bool
    event: str | None
    path: str
    used: str = "corner8"
    report: str | None = None
    still: bool = False


class Mended(RealRobot):
    """Tells the policy true lengths of cable instead of counted ones; the gate goes by the counters as ever."""

    gains: Array = np.ones(8)
    zeros_m: Array = np.zeros(8)

    def mend(self, report: str, drawn: Machine) -> None:
        """Take drums and zeros from a calibration's report."""
        told = json.loads(Path(report).read_text(encoding="utf-8"))["confidence"]
        self.gains = np.array(told["drum radius"]["value"]) / drawn.drive.drum_radius_m
        self.zeros_m = np.array(told["cable zero"]["value"])

    def _measurement(self, lengths_m: Array, now_s: float) -> Measurement:
        true_m = self._park_m + self.gains * (lengths_m - self._park_m) + self.zeros_m
        return super()._measurement(true_m, now_s)


class Lines:
    """A recorder that keeps the ticks on the path in memory."""

    def __init__(self) -> None:
        self.ticks: list[dict[str, Any]] = []

    def write(self, kind: str, **fields: Any) -> None:
        """Take one line."""
        if kind == "tick" and fields.get("t_s") is not None:
            self.ticks.append({name: fields[name] for name in ("approved_host_s", "t_s", "target_world_m")})


def harder(machine: Machine, seed: int) -> dict[str, object]:
    """Return hidden parameters further from the drawing than the table allows."""
    drawn, nominal = hidden_values(machine, seed), nominal_values(machine)
    return {name: (nominal[name] + FURTHER * (drawn[name][0] - nominal[name])).tolist() for name in HARDER}


def run(job: Job) -> dict[str, Any]:
    """Do one job; return its figures."""
    drawn, machine = load_machine("corner8"), load_machine(job.used.replace("{seed}", str(job.seed)))
    params = harder(drawn, job.seed) if job.harder else None
    twin = VirtualTwin(VirtualOptions(machine=drawn, seed=job.seed, params=params, pictures=job.pictures))
    act = (
        Servo(machine).act
        if job.model is None
        else load_for(job.model.replace("{seed}", str(job.seed)), machine).net.act
    )
    gate, lines = Gate(machine), Lines()
    adapter = Adapter(machine, AdaptSettings(watch_s=BEFORE_S)) if job.learn else None
    struck: list[float] = []

    def strike(tick: dict[str, Any]) -> None:
        if job.event and not struck and tick.get("t_s", 0.0) > 30 * job.minutes:
            struck.append(twin.now())
            if job.event == "gust":
                twin.machine.gust = 1.0
            else:
                twin.machine.winches._gain[0, 0] *= 1.1  # pyright: ignore[reportPrivateUsage]

    with twin.driver as driver:
        twin.take_reference()
        twin.sleep_until(twin.now() + 0.2)
        robot = Mended(machine, driver, twin, gate.park_lengths_m, clock=twin.now)
        if job.report:
            robot.mend(job.report.replace("{seed}", str(job.seed)), drawn)
        session = Session(
            machine,
            robot,
            gate,
            act,
            parse_path(job.path, job.feed_mm_s * 1e-3).going_round(60 * job.minutes),
            lines,  # pyright: ignore[reportArgumentType]
            sun_rad=(machine.sun.zenith_rad, machine.sun.azimuth_rad),
            clock=twin,
            on_tick=strike,
            learner=adapter,
        )
        if job.still:
            session.pole = session.sun.pole_world = None
        result = session.run(60 * job.minutes)
    good, t_s, error_m = spot_errors(lines.ticks, twin.truth)
    host_s = np.array([line["host_s"] for line in twin.truth])[good]
    return {
        "seed": job.seed,
        "learn": job.learn,
        "faults": result.faults,
        "waits": session.sight.waits,
        "before_mm": rms_mm(error_m[t_s < BEFORE_S]),
        "after_mm": rms_mm(error_m[t_s > t_s.max(initial=0) - AFTER_S]),
        "seconds": float(t_s.max(initial=0)),
        "seen_mm": twin.seen_error_mm(),
        "seen_slow_mm": twin.seen_error_mm(SLOW_S),
        "share": adapter.share if adapter else 0.0,
        "back_s": back_s(host_s, error_m, struck[0]) if struck else None,
    }


def back_s(host_s: Array, error_m: Array, struck_s: float) -> float:
    """How long after the event half-second means of the error first stay below twice what they were before, for 2 s."""
    distance = np.hypot(*error_m.T)
    smooth = np.sqrt(np.convolve(distance**2, np.full(10, 0.1), "same"))
    before = smooth[(host_s > struck_s - 30) & (host_s < struck_s)]
    above_s = host_s[(host_s >= struck_s) & (smooth > BACK_BELOW * np.sqrt(np.mean(before**2)))] - struck_s
    last_s = 0.0
    for at_s in above_s:
        if at_s > last_s + 2.0:
            break
        last_s = float(at_s)
    return last_s


def rms_mm(error_m: Array) -> float:
    """RMS distance."""
    return float(1e3 * np.sqrt((error_m**2).sum(axis=1).mean())) if len(error_m) else float("nan")


def main() -> None:
    """Run all jobs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--feed", type=float, default=3.0, help="mm/s")
    parser.add_argument("--model")
    parser.add_argument("--used", default="corner8", help="machine file of controller, gate and policy")
    parser.add_argument("--report", help="a calibration's report")
    parser.add_argument("--path", default="square:0.3")
    parser.add_argument("--harder", action="store_true")
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--only-learning", action="store_true", help="leave out the runs without learning")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--event", choices=("gust", "gain"))
    parser.add_argument("--still", action="store_true", help="hold the controller's sun still")
    parser.add_argument("--json", help="file for all figures")
    options = parser.parse_args()
    jobs = [
        Job(
            seed,
            learn,
            options.minutes,
            options.feed,
            options.model,
            options.harder,
            options.pictures,
            options.event,
            options.path,
            options.used,
            options.report,
            options.still,
        )
        for seed in range(options.first, options.first + options.seeds)
        for learn in ((True,) if options.only_learning else (False, True))
    ]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for row in pool.map(run, jobs):
            rows.append(row)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(rows), encoding="utf-8")
    summary(rows)


def summary(rows: list[dict[str, Any]]) -> None:
    """Print medians over seeds, and the worst ratio of with learning to without."""
    whole = [row for row in rows if not row["faults"]]
    print(f"{len(rows) - len(whole)} of {len(rows)} runs ended in a fault")
    for learn in (False, True):
        some = [row for row in whole if row["learn"] is learn]
        if some:
            before, after, seen, slow = (
                [row[name] for row in some] for name in ("before_mm", "after_mm", "seen_mm", "seen_slow_mm")
            )
            print(
                f"{'with   ' if learn else 'without'} learning: first half minute median {np.median(before):.3f} mm (largest {max(before):.3f}), "
                f"last minute median {np.median(after):.3f} mm (largest {max(after):.3f}); tracker {np.median(seen):.3f} mm, "
                f"its means over {SLOW_S:g} s {np.median(slow):.3f} mm"
            )
            if some[0]["back_s"] is not None:
                print(
                    f"  back after the event: median {np.median([r['back_s'] for r in some]):.1f} s, longest {max(r['back_s'] for r in some):.1f} s"
                )
    pairs = {row["seed"]: row["after_mm"] for row in whole if not row["learn"]}
    ratios = [row["after_mm"] / pairs[row["seed"]] for row in whole if row["learn"] and row["seed"] in pairs]
    if ratios:
        print(f"with over without, last minute: median {np.median(ratios):.2f}, largest {max(ratios):.2f}")


if __name__ == "__main__":
    main()
