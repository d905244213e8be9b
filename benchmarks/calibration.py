"""How well does ``melter calibrate machine`` know a machine it has watched for two minutes?

Usage: python benchmarks/calibration.py [SEEDS] [--first N] [--folder FOLDER] [--weighed] [--pictures] [--beyond wind|camera|mechanics]

Each seed is a rehearsal machine with parameters from the whole table, under a clock of its own, with the real firmware
model, driver and gate; the excitation is played on it and the machine fitted to its recording. Without --pictures the patch is told with
the hidden camera's delay, jitter, loss and noise, the latter grown with the patch as in ``melter/env/camera.py``. About two minutes a seed
on one core; results are kept per seed under FOLDER (default runs/bench-calibration), so that it can be stopped and gone on with; recordings
made before are fitted again where only their results are missing.
--beyond: machines with what the fitted model does not have. wind: the strongest of the table, with gusts; camera: two to four times the table's
largest noise, 60 ms of jitter, a map of the bed that is bent by about 2 mm at its edge; mechanics: drums off centre by 0.3 mm, cables that grow
or shrink by up to 0.6 mm in two minutes.
Printed: median error, prior and posterior standard deviation, and the share of 90 % intervals that contain the truth.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from melter.calibration.excitation import Excitation
from melter.calibration.fit import fit
from melter.calibration.forward import Forward
from melter.calibration.machine_file import calibrated_table
from melter.calibration.parameters import Parameters
from melter.calibration.recording import link_delay_s, track_of
from melter.calibration.report import findings
from melter.calibration.track import Track
from melter.cli.calibrate_excite import CounterLog, ExcitingSession
from melter.geometry.paths import parse_path
from melter.hw.real_robot import RealRobot
from melter.loop.recorder import Recorder, read_recording
from melter.loop.session import Session
from melter.machine import load_machine, machine_from_table
from melter.policy.servo import Servo
from melter.safety.gate import Gate
from melter.twin.machine import LINK_S, TwinMachine, hidden_values
from melter.twin.virtual import VirtualOptions, VirtualTwin

BARS = {
    "cable stiffness": ("10 %", 0.10),
    "drum radius": ("0.3 %", 0.003),
    "delay, command to picture": ("10 ms", 0.010),
    "cable zero": ("2 mm", 0.002),
}


BEYOND: dict[str, dict[str, object]] = {
    "wind": {"wind_m_s": 6.0, "wind_turbulence": 0.30, "wind_gust": 1.5},
    "camera": {"camera_jitter_s": 0.060},
    "mechanics": {},
}
NOISE_M = (0.0016, 0.0032)
BENT_M, BENT_AT_M = 0.002, 0.4
OFF_CENTRE_M, GROWN_M, GROWN_S = 0.0003, 0.0006, 120.0
READING_S = 0.0045
"""How old the virtual twin's counters are when they are read; measured."""


class Noisier(VirtualTwin):
    """Noise of the patch's middle grows with the patch, as in the simulation's camera; sizes are told to 3 %."""

    log: CounterLog | None = None

    def __init__(self, options: VirtualOptions, beyond: str | None = None) -> None:
        rng = np.random.default_rng(options.seed + 77)
        params = dict(options.params or {})
        if beyond == "camera":
            params["camera_noise_m"] = float(rng.uniform(*NOISE_M))
        super().__init__(dataclasses.replace(options, params=params | BEYOND.get(beyond or "", {})))
        bend = rng.standard_normal((2, 3)) if beyond == "camera" else np.zeros((2, 3))
        self._bend = BENT_M / BENT_AT_M**2 * bend / max(float(np.linalg.norm(bend)), 1e-9) * np.sqrt(2)
        if beyond == "mechanics":
            self._spoil(rng)

    def _spoil(self, rng: np.random.Generator) -> None:
        """Drums that are off centre, cables that grow or shrink."""
        radius_m, advance = self.options.machine.drive.drum_radius_m, self.machine.advance
        phase, grown_m = rng.uniform(0, 2 * np.pi, 8), rng.uniform(-GROWN_M, GROWN_M, 8)

        def spoilt(position_m) -> None:
            turned = np.sin(position_m / radius_m + phase) - np.sin(phase)
            advance(position_m + OFF_CENTRE_M * turned + grown_m * self.machine.t_s / GROWN_S)

        self.machine.advance = spoilt

    def step(self, dt_s: float) -> None:
        super().step(dt_s)
        if self.log is not None:
            self.log.see(self.driver.poll())

    def _estimate(self, taken):
        found = super()._estimate(taken)
        if found.centre_world_m is not None:
            x, y = found.centre_world_m
            bent = found.centre_world_m + self._bend @ [x * x, x * y, y * y]
            found = dataclasses.replace(found, centre_world_m=bent)
        if self.tracker is not None or found.centre_world_m is None:
            return found
        size = float(np.hypot(*found.semi_axes_m))
        noise_m = max(self._webcam.noise_m, 1e-5) * (size / 0.05)
        shown = found.semi_axes_m * (1 + 0.03 * self._dice.standard_normal())
        return dataclasses.replace(
            found, centre_world_m=found.centre_world_m + noise_m * self._dice.standard_normal(2), semi_axes_m=shown
        )


def play(machine, seed: int, file: Path, *, pictures: bool, beyond: str | None) -> None:
    """Make the excitation run of one seed."""
    twin = Noisier(VirtualOptions(machine=machine, seed=seed, pictures=pictures), beyond)
    gate, sun = Gate(machine), (machine.sun.zenith_rad, machine.sun.azimuth_rad)
    file.unlink(missing_ok=True)
    with twin.driver, Recorder(file, twin.now) as recorder:
        twin.take_reference()
        robot = RealRobot(machine, twin.driver, twin, gate.park_lengths_m, sun, twin.now)
        recorder.write("start", machine_sha256=machine.sha256, sun_rad=sun)
        twin.sleep_until(twin.now() + 0.5)
        session = ExcitingSession(Excitation(machine, sun), machine, robot, gate, recorder, sun_rad=sun, clock=twin)
        twin.log = CounterLog(recorder)
        result = session.run()
        twin.log.write()
    if result.faults:
        print(f"seed {seed}: {result.faults}", flush=True)


def truth_of(hidden, forward: Forward, parameters: Parameters, track: Track) -> dict[str, list[float]]:
    """What the fit should find, by the names of :func:`findings`."""
    twin = TwinMachine(forward.machine, hidden, np.random.default_rng(0))
    late_s = max(0, round((float(hidden["action_delay_s"][0, 0]) - LINK_S) / twin.step_s)) * twin.step_s
    held_s = 0.5 * twin.step_s - READING_S  # pictures show the last whole step; counters are a little old
    seen_s = float(hidden["camera_delay_s"][0, 0]) + 0.5 * float(hidden["camera_jitter_s"][0, 0]) + late_s + held_s
    u = parameters.vector(hidden | {"seen_delay_s": np.array([[seen_s]])})
    start = slice(0, 20)
    short = Track(
        track.counter_s[start], track.counters_m[start], track.frame_s[:2], track.centre_world_m[:2],
        track.moments_m2[:2], track.sun_rad, track.share[:2],
    )  # fmt: skip
    zeros_m = forward.motion(parameters.values(u), short).zeros_m[0]
    return {row.name: row.value for row in findings(parameters, u[0], zeros_m)}


def one(machine, seed: int, folder: Path, options) -> dict:
    """Play and fit one seed."""
    file = folder / f"seed-{seed}.jsonl"
    if not file.exists():
        play(machine, seed, file.with_suffix(".part"), pictures=options.pictures, beyond=options.beyond)
        file.with_suffix(".part").rename(file)
    lines, hidden = read_recording(file), hidden_values(machine, seed, BEYOND.get(options.beyond or ""))
    track, link_s = track_of(lines, machine, file.name), link_delay_s(lines)
    measured = {"moving_mass_kg": (float(hidden["moving_mass_kg"][0, 0]), 0.05)} if options.weighed else None
    parameters, forward = Parameters.for_machine(machine, measured=measured), Forward(machine)
    found = fit(forward, parameters, [track])
    truth = truth_of(hidden, forward, parameters, track)
    rows = {
        row.name: {"found": row.value, "sd": row.deviation, "prior": row.prior, "truth": truth[row.name]}
        for row in findings(parameters, found.u, found.zeros_m, found)
    }
    return {
        "seed": seed,
        "rows": rows,
        "link_s": link_s,
        "residual_m": found.residual_m,
        "before_m": found.before_m,
        "noise": [dataclasses.asdict(noise) for noise in found.noise],
        "left_out": found.left_out,
        "ea_n": float(hidden["cable_stiffness_n"][0, 0]),
    }


def worth(machine, seed: int, folder: Path) -> dict[str, float]:
    """True spot error (mm, RMS after 2 s) of the classical servo on one seed, by the drawing's file and by the calibrated one."""
    parameters = Parameters.for_machine(machine)
    file = folder / f"seed-{seed}.jsonl"
    track, link_s = track_of(read_recording(file), machine, file.name), link_delay_s(read_recording(file))[0]
    found = fit(Forward(machine), parameters, [track])
    calibrated = machine_from_table(calibrated_table(machine, found, link_s)[0])
    return {
        name: servo_error_mm(machine, used, seed, folder)
        for name, used in (("drawn", machine), ("calibrated", calibrated))
    }


def servo_error_mm(machine, used, seed: int, folder: Path) -> float:
    """Run the servo, made from the machine ``used``, on the rehearsal machine of a seed; a minute along a square."""
    twin, sun = (
        Noisier(VirtualOptions(machine=machine, seed=seed, pictures=False)),
        (used.sun.zenith_rad, used.sun.azimuth_rad),
    )
    gate, file = Gate(used), folder / "worth.part"
    file.unlink(missing_ok=True)
    with twin.driver, Recorder(file, twin.now) as recorder:
        robot = RealRobot(used, twin.driver, twin, gate.park_lengths_m, sun, twin.now)
        twin.sleep_until(twin.now() + 0.5)
        path = parse_path("square:0.2", 0.003)
        session = Session(used, robot, gate, Servo(used).act, path, recorder, sun_rad=sun, clock=twin)
        result = session.run(60.0)
    if result.faults:
        print(f"seed {seed}: {result.faults}", flush=True)
    ticks = [line for line in read_recording(file) if line["kind"] == "tick" and line.get("t_s", -1) > 2.0]
    at_s = np.array([tick["approved_host_s"] for tick in ticks])
    target = np.array([tick["target_world_m"] for tick in ticks])
    truth_s = np.array([line["host_s"] for line in twin.truth])
    spot = np.array([line["spot_world_m"] for line in twin.truth])
    seen = np.stack([np.interp(at_s, truth_s, spot[:, i]) for i in range(2)], axis=1)
    return 1e3 * float(np.sqrt(np.mean(np.sum((seen - target) ** 2, axis=1))))


def table(results: list[dict]) -> None:
    """Print what was found over all seeds."""
    print(f"{len(results)} seeds; intervals are 90 %: found ± 1.645 standard deviations")
    print(f"{'':34s} {'median error':>13s} {'p90':>9s} {'prior sd':>9s} {'known to':>9s} {'inside':>7s}  bar")
    for name in results[0]["rows"]:
        columns = {
            key: np.array([value for r in results for value in np.atleast_1d(r["rows"][name][key])])
            for key in ("found", "sd", "prior", "truth")
        }
        relative = columns["truth"] if name in ("cable stiffness", "drum radius") else 1.0
        error = np.abs(columns["found"] - columns["truth"])
        inside = np.mean(error <= 1.645 * columns["sd"])
        shown = [np.median(error / relative), np.quantile(error / relative, 0.9)]
        shown += [np.median(columns[key] / relative) for key in ("prior", "sd")]
        bar = BARS.get(name)
        met = "" if bar is None else f"{bar[0]}: {np.mean(error / relative <= bar[1]):.0%} of values within"
        print(f"{name:34s} {shown[0]:13.4g} {shown[1]:9.3g} {shown[2]:9.3g} {shown[3]:9.3g} {inside:7.0%}  {met}")
    for key in ("residual_m", "before_m"):
        print(f"{key}: median {1e3 * np.median([r[key] for r in results]):.2f} mm per axis")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", nargs="?", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-calibration"))
    parser.add_argument("--weighed", action="store_true", help="the moving mass was weighed to 50 g")
    parser.add_argument("--pictures", action="store_true", help="render frames and track them")
    parser.add_argument("--beyond", choices=tuple(BEYOND), help="with what the fitted model does not have")
    parser.add_argument(
        "--worth", action="store_true", help="what the calibrated file is worth to the servo, from recordings made"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    machine, results = load_machine(), []
    if options.worth:
        for seed in range(options.first, options.first + options.seeds):
            print(f"seed {seed}:", worth(machine, seed, options.folder), flush=True)
        return
    for seed in range(options.first, options.first + options.seeds):
        file = options.folder / f"seed-{seed}.json"
        if not file.exists():
            found = one(machine, seed, options.folder, options)
            file.write_text(json.dumps(found))
            ea = found["rows"]["cable stiffness"]
            print(f"seed {seed}: EA {ea['found'][0]:.0f} N (truth {ea['truth'][0]:.0f})", flush=True)
        results.append(json.loads(file.read_text()))
    table(results)


if __name__ == "__main__":
    main()
