"""How well can it be known where the spot is? The limit of any policy outdoors, by three ways to remember.

Usage: python benchmarks/estimate.py [BATCHES]   (default 8 batches of 256 episodes; about 6 minutes on 3 cores)

The servo drives outdoor episodes; from what a policy sees, the true spot error is estimated by each of the observation's running means, by a
network on the observation (those means are its memory), and by a recurrent network on everything since the episode began. Printed: RMS
distance from the truth while melting, after 2 s, on episodes that no network was fitted to; and the spot error itself.
A controller without any other limit cannot keep the spot closer than the estimate is to the truth, but for what it can average ahead.
"""

import sys

import numpy as np
import torch

from melter.env.batch import SandMelterBatch
from melter.env.scenario import SUITES
from melter.machine import load_machine
from melter.observation import MEMORY_S, ObservationBuilder
from melter.policy.evaluate import SETTLING_S
from melter.policy.request import default_threads
from melter.policy.servo import Servo

ENVS, FIRST, SCALE_M = 256, 700_000, 3e-4


def play(batches: int):
    """Observations, true spot errors (m) and whether a tick counts; time first."""
    machine = load_machine()
    servo, batch = Servo(machine), SandMelterBatch(machine, ENVS, SUITES["outdoor"], default_threads())
    seen, truth, counts, rows = [], [], [], np.arange(ENVS)
    for number in range(batches):
        batch.reset(rows, np.zeros(ENVS, dtype=int), FIRST + number * ENVS + rows)
        columns, alive = ([], [], []), np.ones(ENVS, dtype=bool)
        for tick in range(batch.horizon):
            observation = batch.observe()
            error = batch.targets[rows, batch.tick, :2] - batch.patch[:, :2]
            late = tick >= SETTLING_S * machine.control.rate_hz
            for column, value in zip(columns, (observation, error, batch.melting & alive & late), strict=True):
                column.append(value)
            _, state = batch.step(servo.act(observation))
            alive &= state.ending == 0
        for whole, column in zip((seen, truth, counts), columns, strict=True):
            whole.append(np.stack(column))
        print(f"played {number + 1} of {batches}", flush=True)
    return (np.concatenate(part, axis=1) for part in (seen, truth, counts))


class Flat(torch.nn.Module):
    """Two hidden layers on the observation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = (torch.nn.Linear(width, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU())
        self.layers = torch.nn.Sequential(*sizes, torch.nn.Linear(128, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Recurrent(torch.nn.Module):
    """Gated recurrent units on everything since the episode began."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = torch.nn.Linear(width, 64), torch.nn.Linear(64, 2)
        self.units = torch.nn.GRU(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.units(torch.tanh(self.before(x)))[0])


def fit(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, counts: torch.Tensor, epochs: int) -> None:
    """Least absolute-square errors, the step size falling to nothing."""
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - epoch / epochs)
        for picked in torch.randperm(x.shape[1], generator=generator).split(32):
            loss = torch.nn.functional.huber_loss(net(x[:, picked]), y[:, picked], reduction="none").sum(-1)
            optimizer.zero_grad()
            (loss * counts[:, picked]).mean().backward()
            optimizer.step()


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(default_threads())
    seen, truth, counts = play(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
    builder = ObservationBuilder(load_machine())
    scale = next(entry.scale for entry in builder.table if entry.name == "spot_estimate")
    means = seen[..., builder.slice_of("spot_estimate")].reshape(*seen.shape[:2], 2, len(MEMORY_S)) * scale
    test = slice(seen.shape[1] - ENVS, None)

    def far_mm(estimate: np.ndarray) -> float:
        square = np.square(estimate - truth[:, test]).sum(-1)
        return 1e3 * float(np.sqrt(square[counts[:, test]].mean()))

    print(f"spot error under the servo: {far_mm(np.zeros(2)):.3f} mm RMS")
    for i, seconds in enumerate(MEMORY_S):
        print(f"estimate by the mean over {seconds} s: off by {far_mm(means[:, test, :, i]):.3f} mm RMS", flush=True)
    base = means[..., len(MEMORY_S) // 2]
    x = (seen - seen.mean((0, 1))) / np.maximum(seen.std((0, 1)), 1e-3)
    given = [torch.from_numpy(a.astype(np.float32)) for a in (x, (truth - base) / SCALE_M, counts)]
    for name, net, epochs in (
        ("network on the observation", Flat(x.shape[-1]), 12),
        ("recurrent network", Recurrent(x.shape[-1]), 20),
    ):
        fit(net, *(part[:, :-ENVS] for part in given), epochs)
        with torch.no_grad():
            found = net(given[0][:, test]).numpy() * SCALE_M + base[:, test]
        print(f"estimate by a {name}: off by {far_mm(found):.3f} mm RMS", flush=True)


if __name__ == "__main__":
    main()
