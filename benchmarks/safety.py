"""Going dark in the randomised simulator: many machines at work, one fault each, driven by the classical servo.

Usage: python benchmarks/safety.py [MACHINES] [SEED]   (default 1000, 1; about two minutes on one core)
"""

import sys

import numpy as np
from numpy.typing import NDArray

from melter.machine import load_machine
from melter.policy.dark import dark_drill
from melter.policy.servo import Servo
from melter.safety.drill import COOL_ABOVE_S, COOL_WITHIN_S, DarkDrill

SLACK = 1e-9


def main() -> None:
    words = sys.argv[1:] + ["1000", "1"][len(sys.argv) - 1 :]
    count, seed = int(words[0]), int(words[1])
    machine, shown = load_machine(), -1

    def progress(done: float) -> None:
        nonlocal shown
        if int(10 * done) > shown:
            shown = int(10 * done)
            print(f"{done:.0%}", file=sys.stderr, flush=True)

    drill = dark_drill(machine, Servo(machine).act, count, np.random.default_rng(seed), threads=2, progress=progress)
    print(
        f"{count} machines, {int(drill.held.sum())} of which held their lens until the fault; seconds from the fault,"
    )
    print(f"{drill.reported_s:g} s for its detection included (median / largest; too late)")
    rows = [((drill.fault == name) & (drill.excused == ""), name) for name in sorted(set(drill.fault.tolist()))]
    rows += [(drill.excused == why, why) for why in sorted(set(drill.excused.tolist()) - {""})]
    names = [winch.name for winch in machine.winch]
    for where, name in rows:
        if (here := where & drill.held).any():
            tell(drill, here, name, names)


def tell(drill: DarkDrill, here: NDArray[np.bool_], name: str, winches: list[str]) -> None:
    """Print what came of the machines ``here``, and where the late ones stood."""
    print(f"{name}: {int(here.sum())} machines, {int(drill.bright_before[here].sum())} of them melting at the time")
    for all_s, most, what in (
        (drill.melting_s, COOL_WITHIN_S, "melting"),
        (drill.bright_s, COOL_ABOVE_S, "10 kW/m2"),
    ):
        times = drill.since_fault(all_s)
        late = here & (times > most + SLACK)
        middle = np.sort(times[here])[int(here.sum()) // 2]
        print(
            f"    below {what}: {middle:.2f} / {times[here].max():.2f} s; {int(late.sum())} later than {most} s", end=""
        )
        print(f" ({int((all_s[here] > most + SLACK).sum())} from the beginning of the way)")
        if late.any() and not late[here].all():
            zenith, last = np.degrees(drill.zenith_rad[late]), drill.peaks_w_m2[late, -1] * 1e-3
            at = ", ".join(
                f"{int((drill.winch[late] == w).sum())} {winches[w]}" for w in sorted(set(drill.winch[late]))
            )
            print(
                f"        zenith {zenith.min():.0f} to {zenith.max():.0f} deg, {last.min():.0f} to {last.max():.0f}",
                end="",
            )
            print(f" kW/m2 in the end; winch {at}")
    print(f"    melting light off the bed: {int(drill.outside[here].sum())}")


if __name__ == "__main__":
    main()
