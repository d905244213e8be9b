"""Ten million random control steps over all randomisations: nothing diverges, nothing is unexplained.

    python benchmarks/endurance.py [STEPS]

Three kinds of action take turns: noise around zero, noise over the whole range, and full speed one way. Prints what was seen;
exit 1 when a number is not finite, a tension is negative, MuJoCo warns, or an episode ends for a reason without a name.
"""

from __future__ import annotations

import sys
import time
import warnings

import mujoco
import numpy as np

from melter.env.batch import ENDINGS, SandMelterBatch
from melter.env.scenario import TRAIN
from melter.machine import WINCH_COUNT, load_machine

ENVS = 256


def main(steps: int) -> int:
    """Run and report."""
    said: list[str] = []
    mujoco.set_mju_user_warning(said.append)
    warnings.simplefilter("error")
    rng, batch = np.random.default_rng(0), SandMelterBatch(load_machine(), ENVS, TRAIN)
    everything, episodes = np.arange(ENVS), np.zeros(ENVS, dtype=np.int64)
    batch.reset(everything, everything, episodes)
    endings, bad, lowest, highest = np.zeros(len(ENDINGS), dtype=np.int64), 0, np.inf, 0.0
    began_s = told_s = time.monotonic()
    direction = np.sign(rng.normal(size=(ENVS, WINCH_COUNT)))
    size = np.array([0.05, 1.0, 0.0])[everything % 3][:, None]
    for tick in range(-(-steps // ENVS)):
        action = np.where(size > 0, rng.normal(0, 1, (ENVS, WINCH_COUNT)) * size, direction)
        terms, state = batch.step(np.clip(action, -1, 1))
        numbers = (batch.observe().sum(axis=1), sum(terms.values()), state.tensions_n.sum(axis=1), state.peak_w_m2)
        finite = np.isfinite(np.stack([np.asarray(number, dtype=float) for number in numbers])).all(axis=0)
        bad += int((~finite & (state.ending != ENDINGS.index("diverged"))).sum())
        lowest, highest = min(lowest, float(state.tensions_n.min())), max(highest, float(state.tensions_n.max()))
        over = np.flatnonzero(state.ending)
        endings += np.bincount(state.ending[over], minlength=len(ENDINGS))
        if len(over):
            episodes[over] += 1
            batch.reset(over, over, episodes[over])
            direction[over] = np.sign(rng.normal(size=(len(over), WINCH_COUNT)))
        if time.monotonic() - told_s > 10:
            told_s, done = time.monotonic(), (tick + 1) * ENVS
            left_s = (told_s - began_s) * (steps - done) / done
            print(f"{done:,} of {steps:,} steps, {left_s:.0f} s left", file=sys.stderr, flush=True)
    print(f"{steps:,} control steps, {episodes.sum():,} episodes, {time.monotonic() - began_s:.0f} s")
    print(f"tension {lowest:.1f} to {highest:.0f} N; not finite: {bad}; MuJoCo's warnings: {len(said)} {said[:1]}")
    for name, count in zip(ENDINGS, endings, strict=True):
        print(f"  {name}: {count:,}")
    diverged = int(endings[ENDINGS.index("diverged")])
    return 1 if bad or said or lowest < 0 or diverged else 0


if __name__ == "__main__":
    sys.exit(main(int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000_000))
