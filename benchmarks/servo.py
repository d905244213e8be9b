"""Tune the servo's gains: a grid over the outdoor suite, best first.

Usage: python benchmarks/servo.py [EPISODES]   (about 5 s per line with 100 episodes on 4 cores)
"""

import itertools
import sys

from melter.machine import load_machine
from melter.policy.evaluate import evaluate
from melter.policy.request import default_threads
from melter.policy.servo import Servo, ServoGains

FIRST = 200_000  # episodes that no evaluation reports


def main() -> None:
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    machine = load_machine()
    found = []
    for spot, length, flight in itertools.product((1.0, 1.6, 2.5), (0.5, 1.0, 2.0), (1.5, 2.5, 3.0)):
        act = Servo(machine, ServoGains(spot, length, flight)).act
        result = evaluate(act, machine, "outdoor", episodes, first=FIRST, threads=default_threads())
        found.append((result.rms_mm + result.terminated, spot, length, flight))
        print(f"spot {spot}/s length {length}/s in flight {flight}: {result.text()}", flush=True)
    print("best:", min(found)[1:])


if __name__ == "__main__":
    main()
