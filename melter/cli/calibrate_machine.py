"""``melter calibrate machine``: a machine's hidden parameters from recorded runs, or from an excitation run made for it."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from melter.cli.common import Common, emit, parse, plain, require_in, say
from melter.errors import BadInput, OutputExists

if TYPE_CHECKING:
    from melter.calibration.fit import Posterior
    from melter.calibration.parameters import Parameters
    from melter.calibration.report import Finding
    from melter.calibration.track import Track
    from melter.machine import Machine

SHOWN = ("cable stiffness", "drum radius", "delay, counters to picture", "pulley friction at 150 N", "cable zero")
NOISY = ("x_m", "y_m", "log_size")
MEASURABLE = {"mass-kg": "moving_mass_kg", "focal-length-m": "focal_length_m", "bed-height-m": "bed_height_m"}


@dataclass(frozen=True, kw_only=True)
class MachineConfig(Common):
    """Machine parameters from recorded runs: run folders or recordings of 'melter real', or --excite for a run made for this.

    Writes a calibrated machine file, a report (JSON) and a randomisation table for training beside the machine file.
    """

    source: Positional[tuple[str, ...]] = ()
    """Run folders, or recording.jsonl files, of one machine that was not zeroed anew between them."""
    out: str | None = None
    """Machine file to write (TOML). Default: NAME-calibrated.toml beside the machine file, or here for a packaged machine."""
    excite: bool = False
    """First make a run over the bed that moves all winches, through the same gate as 'melter real'; nothing melts."""
    minutes: float = 2.0
    """Length of that run (min, 1 to 10)."""
    camera: str = ""
    """Camera for --excite: URL, index, or file."""
    port: str = ""
    """Serial port for --excite."""
    driver: str = "grblhal"
    """Motor driver for --excite."""
    calibration: str | None = None
    """Camera calibration (JSON) for --excite."""
    sun: str | None = None
    """ZENITH,AZIMUTH of the sun (degrees), or now with --place, for --excite. Default: the machine file's."""
    place: str | None = None
    """LATITUDE,LONGITUDE of the machine (degrees): where the sun's way is known, it need not be found."""
    arm: bool = False
    """Arm without asking, for rehearsals and scripts."""
    run: str | None = None
    """Folder for the excitation's recording. Default: the next free runs/excite-MACHINE-NNN."""
    measured: tuple[str, ...] = ()
    """What was measured otherwise, with its standard deviation, as mass-kg=6.21+-0.05 (also focal-length-m, bed-height-m)."""
    threads: int = 0
    """Threads for the simulations; 0: as many as the computer has cores, at most 8."""


def run(argv: list[str]) -> int:
    """Calibrate a machine; return 0 when a file was written."""
    config = parse(MachineConfig, argv, "calibrate machine")
    from melter.machine import load_machine

    require_in("--minutes", config.minutes, 1, 10, " min")
    require_in("--threads", config.threads, 0, 256)
    machine = load_machine(config.machine)
    out = _out(config)
    measured = dict(_measured(text) for text in config.measured)
    sources = [_recording(source) for source in config.source]
    if config.excite:
        sources.append(_excited(config, machine))
    if not sources:
        raise BadInput("calibrate machine: no recording given; name run folders of melter real, or give --excite")
    tracks, link_s, latitude_rad = _tracks(sources, machine)
    from melter.calibration.parameters import Parameters

    parameters = Parameters.for_machine(
        machine, sun_rad=tracks[0].sun_rad, latitude_rad=latitude_rad, measured=measured
    )
    posterior = _fit(config, machine, parameters, tracks)
    return _report(config, machine, out, sources, posterior, link_s)


def _out(config: MachineConfig) -> Path:
    """The machine file to write; refuses one that is there."""
    given = Path(config.machine)
    default = (
        given.with_name(f"{given.stem}-calibrated.toml") if given.is_file() else Path(f"{given.stem}-calibrated.toml")
    )
    out = default if config.out is None else Path(config.out)
    if out.suffix != ".toml":
        raise BadInput(f"--out {out}: must end in .toml")
    for path in (out, *_beside(out)):
        if path.exists():
            raise OutputExists(f"--out {out}: {path} exists already; choose another name")
    if not out.absolute().parent.is_dir():
        raise BadInput(f"--out {out}: its folder does not exist")
    return out


def _beside(out: Path) -> tuple[Path, Path]:
    """Report and randomisation table that go with a machine file."""
    return out.with_suffix(".json"), out.with_name(f"{out.stem}-randomisation.toml")


def _measured(text: str) -> tuple[str, tuple[float, float]]:
    name, _, numbers = text.partition("=")
    value, _, deviation = numbers.partition("+-")
    try:
        return MEASURABLE[name], (float(value), float(deviation))
    except (KeyError, ValueError):
        raise BadInput(f"--measured {text}: must be {'|'.join(MEASURABLE)}=VALUE+-DEVIATION") from None


def _recording(source: str) -> Path:
    path = Path(source)
    file = path / "recording.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"source {source}: neither a run folder nor a recording.jsonl")
    return file


def _excited(config: MachineConfig, machine: Machine) -> Path:
    """Make the excitation run."""
    from melter.cli.calibrate_excite import Where, excite
    from melter.cli.real_preflight import sky_of

    for name in ("camera", "port"):
        if not getattr(config, name):
            raise BadInput(f"--excite: --{name} must be given")
    if not config.arm and not sys.stdin.isatty():
        raise BadInput("--excite: nobody is there to arm the machine; give --arm, or run it in a terminal")
    where = Where(
        camera=config.camera, port=config.port, driver=config.driver, calibration=config.calibration, arm=config.arm
    )
    return excite(where, machine, sky_of(config.sun, config.place, machine), config.run, config.minutes)


def _tracks(sources: list[Path], machine: Machine) -> tuple[list[Track], float, float | None]:
    """Tracks of the recordings, the delay from command to counters, and the latitude if one tells it."""
    from melter.calibration.recording import latitude_of, link_delay_s, track_of
    from melter.loop.recorder import read_recording

    tracks: list[Track] = []
    link_s: list[float] = []
    latitude_rad: float | None = None
    for file in sources:
        try:
            lines = read_recording(file)
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"recording {file}: cannot be read: {type(error).__name__}") from None
        tracks.append(track_of(lines, machine, str(file)))
        link_s.append(link_delay_s(lines)[0])
        latitude_rad = latitude_of(lines) if latitude_rad is None else latitude_rad
    return tracks, sum(link_s) / len(link_s), latitude_rad


def _fit(config: MachineConfig, machine: Machine, parameters: Parameters, tracks: list[Track]) -> Posterior:
    from melter.calibration.fit import fit
    from melter.calibration.forward import Forward

    began_s = time.monotonic()

    def tell(share: float, what: str) -> None:
        passed_s = time.monotonic() - began_s
        left = f", about {passed_s * (1 - share) / share:.0f} s left" if share > 0.05 else ""
        say(f"calibration: {what}{left}")

    threads = config.threads or min(os.cpu_count() or 1, 8)
    return fit(Forward(machine, threads), parameters, tracks, tell)


def _report(
    config: MachineConfig, machine: Machine, out: Path, sources: list[Path], posterior: Posterior, link_s: float
) -> int:
    """Write the files, report last; say what was found."""
    from melter.calibration.machine_file import calibrated_table, confidence, narrowed_table, to_toml
    from melter.calibration.report import findings
    from melter.policy.files import replacing, write_json

    found = findings(posterior.parameters, posterior.u, posterior.zeros_m, posterior)
    table, remarks = calibrated_table(machine, posterior, link_s)
    report, randomisation = _beside(out)
    winches = [winch.name for winch in machine.winch]
    heading = f"{machine.name}, calibrated from {', '.join(str(s) for s in sources)}\nDrums and cables one by one: {report.name}"
    result: dict[str, Any] = {
        "file": str(out),
        "report": str(report),
        "randomisation": str(randomisation),
        "residual": posterior.residual_m,
        "residual_before": posterior.before_m,
        "confidence": confidence(found, winches),
        "action_delay_s": link_s,
        "noise": {name: plain(noise.__dict__) for name, noise in zip(NOISY, posterior.noise, strict=True)},
        "frames": posterior.frames,
        "left_out": posterior.left_out,
        "sources": [str(s) for s in sources],
        "machine_sha256": machine.sha256,
        "tension_n": posterior.tension_n,
    }
    for path, text in ((out, to_toml(table, remarks, heading)), (randomisation, narrowed_table(posterior, link_s))):
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")
    write_json(report, plain(result))
    emit(result, config.json, _words(result, found, winches))
    return 0


def _words(result: dict[str, Any], found: list[Finding], winches: list[str]) -> str:
    lines = [
        f"{result['file']}: the light is where the machine says to {1e3 * result['residual']:.2f} mm RMS, "
        f"before {1e3 * result['residual_before']:.2f} mm; {result['frames']} frames, {result['left_out']} left out"
    ]
    for row in found:
        if row.name not in SHOWN:
            continue
        for number, (value, deviation) in enumerate(zip(row.value, row.deviation, strict=True)):
            which = f" {winches[number]}" if len(row.value) > 1 else ""
            lines.append(f"  {row.name}{which}: {value:.5g} ± {1.645 * deviation:.2g} {row.unit} (90 %)")
    vague = [row.name for row in found if row.share > 0.9]
    if vague:
        lines.append(f"  hardly told by these runs: {', '.join(vague)}")
    return "\n".join(lines)
