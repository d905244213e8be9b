"""Find the servo's gains: CMA-ES over outdoor and nominal episodes that no evaluation reports.

Usage: python benchmarks/servo.py [--minutes M] [--episodes N] [--threads T] [--seed S]

Every candidate plays the same episodes. What is made small: outdoor RMS (mm) + half the nominal RMS, a terminated episode
counting as 10 mm shared out over all. At the end the best is compared with the defaults on other episodes, paired. Needs
the package cmaes (``pip install cmaes``).
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np
from cmaes import CMA

from melter.env.scenario import SUITES
from melter.machine import Machine, load_machine
from melter.policy.compare import Contender, Match, comparison
from melter.policy.evaluate import Evaluation, evaluate
from melter.policy.servo import Servo, ServoGains

FIRST, CHECK_FIRST, CHECK_EPISODES = 200_000, 500_000, 200


@dataclass(frozen=True)
class Span:
    """Where one gain is looked for; ``count`` numbers of it."""

    name: str
    low: float
    high: float
    count: int = 1
    log: bool = False

    def share(self, value: object) -> np.ndarray:
        v = np.atleast_1d(np.asarray(value, dtype=float))
        if self.log:
            return np.log(v / self.low) / np.log(self.high / self.low)
        return (v - self.low) / (self.high - self.low)

    def value(self, share: np.ndarray) -> float | tuple[float, ...]:
        u = np.clip(share, 0, 1)
        v = self.low * (self.high / self.low) ** u if self.log else self.low + u * (self.high - self.low)
        return tuple(round(float(x), 4) for x in v) if self.count > 1 else round(float(v[0]), 4)


SPANS = (
    Span("spot_per_s", 1.5, 18.0, 3, log=True),
    Span("fast_weight", -0.3, 1.3, 3),
    Span("slow_weight", -0.5, 1.0, 3),
    Span("jump", 0.7, 6.0, 2, log=True),
    Span("moved_weight", 0.8, 1.6),
    Span("length_per_s", 0.5, 15.0, log=True),
    Span("commands_in_flight", 0.0, 3.0),
    Span("lead", 0.0, 1.5),
)


def shares_of(gains: ServoGains) -> np.ndarray:
    return np.concatenate([span.share(getattr(gains, span.name)) for span in SPANS])


def gains_of(shares: np.ndarray) -> ServoGains:
    ends = np.cumsum([span.count for span in SPANS])
    return ServoGains(**{s.name: s.value(shares[e - s.count : e]) for s, e in zip(SPANS, ends, strict=True)})


def score(machine: Machine, gains: ServoGains, episodes: int, threads: int) -> tuple[float, Evaluation, Evaluation]:
    act = Servo(machine, gains).act
    outdoor = evaluate(act, machine, "outdoor", episodes, first=FIRST, threads=threads)
    nominal = evaluate(act, machine, "nominal", max(8, episodes // 4), first=FIRST, threads=threads)
    return outdoor.rms_mm + 0.5 * nominal.rms_mm + 10 * outdoor.terminated / episodes, outdoor, nominal


def search(machine: Machine, minutes: float, episodes: int, threads: int, seed: int) -> ServoGains:
    start = shares_of(ServoGains())
    bounds = np.tile([0.0, 1.0], (len(start), 1))
    optimiser = CMA(mean=np.clip(start, 0.02, 0.98), sigma=0.12, bounds=bounds, seed=seed)
    best, best_score, _ = ServoGains(), *score(machine, ServoGains(), episodes, threads)[:2]
    print(f"defaults: {best_score:.4f}", flush=True)
    begun = time.monotonic()
    while time.monotonic() - begun < 60 * minutes:
        answers = []
        for _ in range(optimiser.population_size):
            asked = optimiser.ask()
            found, outdoor, nominal = score(machine, gains_of(asked), episodes, threads)
            answers.append((asked, found))
            if found < best_score:
                best, best_score = gains_of(asked), found
                figures = f"outdoor {outdoor.rms_mm:.3f}, nominal {nominal.rms_mm:.3f} mm"
                print(
                    f"{time.monotonic() - begun:5.0f} s  {found:.4f} ({figures})  {json.dumps(asdict(best))}",
                    flush=True,
                )
        optimiser.tell(answers)
        mean = np.mean([found for _, found in answers])
        print(f"{time.monotonic() - begun:5.0f} s  generation {optimiser.generation}: mean {mean:.4f}", flush=True)
    return best


def check(machine: Machine, best: ServoGains, threads: int) -> None:
    contenders = [Contender("defaults", Servo(machine).act), Contender("found", Servo(machine, best).act)]
    for suite, scenario in SUITES.items():
        match = Match(contenders, machine, scenario, first=CHECK_FIRST, threads=threads)
        match.play(CHECK_EPISODES)
        result = comparison(suite, match.played, "defaults", [])
        for name, one in result.evaluations.items():
            print(f"{name}: {one.text()}")
        ratio = result.ratios["found"]
        print(f"{suite}: found over defaults {ratio.value:.3f} ({ratio.ci[0]:.3f} to {ratio.ci[1]:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="time for the search (min)")
    parser.add_argument(
        "--episodes", type=int, default=64, help="outdoor episodes per candidate; a quarter as many nominal ones"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    machine = load_machine()
    best = search(machine, options.minutes, options.episodes, options.threads, options.seed)
    print(json.dumps(asdict(best), indent=1))
    check(machine, best, options.threads)


if __name__ == "__main__":
    main()
