"""Going dark in the randomised simulator: many machines at work, one fault each, driven by the classical servo.

Usage: python benchmarks/safety.py [MACHINES]   (default 1000; about a minute on two cores)
"""

import sys

import numpy as np

from melter.machine import load_machine
from melter.policy.dark import dark_drill
from melter.policy.servo import Servo
from melter.safety.drill import COOL_ABOVE_S, COOL_WITHIN_S


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    machine, shown = load_machine(), -1

    def progress(done: float) -> None:
        nonlocal shown
        if int(10 * done) > shown:
            shown = int(10 * done)
            print(f"{done:.0%}", file=sys.stderr, flush=True)

    drill = dark_drill(machine, Servo(machine).act, count, np.random.default_rng(1), threads=2, progress=progress)
    print(
        f"{count} machines, {int(drill.held.sum())} of which held their lens until the fault; times from the beginning"
    )
    print(f"of the way to dark, {drill.reported_s:g} s after the fault (median / largest; too late)")
    rows = [(drill.fault == name, name) for name in sorted(set(drill.fault.tolist()))]
    rows += [(drill.excused == why, f"  of these: {why}") for why in sorted(set(drill.excused.tolist()) - {""})]
    for where, name in rows:
        here = where & drill.held
        print(f"{name}: {int(here.sum())} machines, {int(drill.bright_before[here].sum())} of them melting at the time")
        for times, most, what in (
            (drill.melting_s[here], COOL_WITHIN_S, "melting"),
            (drill.bright_s[here], COOL_ABOVE_S, "10 kW/m2"),
        ):
            middle = np.sort(times)[len(times) // 2]
            print(
                f"    below {what}: {middle:.2f} / {times.max():.2f} s; {int((times > most).sum())} later than {most} s"
            )
        print(f"    melting light off the bed: {int(drill.outside[here].sum())}")


if __name__ == "__main__":
    main()
