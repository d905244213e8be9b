"""``melter patch``: the light patch on the sand for a lens pose and a sun, by one of three models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from melter.cli.common import Common, emit, parse, require_in
from melter.errors import BadInput

VECTORS = ("--lens", "--tilt-deg", "--sun", "--at")
REACH_M = 10.0
"""How far from the lens the sharp outline is drawn, along world x and y; beyond, it is cut off."""


@dataclass(frozen=True, kw_only=True)
class PatchConfig(Common):
    """The light patch on the sand: kind of conic, centre, semi-axes, angle, peak irradiance.

    Models: conic (sharp cone of the aperture, exact), blur (with sun's disc, grooves and colours, as in simulation),
    traced (ray trace, the reference).
    """

    lens: str | None = None
    """Lens centre X,Y,Z in the world frame, metres; default: in focus over the middle of the bed."""
    tilt_deg: str = "0,0"
    """RX,RY: turn of the lens about world x and y away from facing the sun, degrees."""
    sun: str | None = None
    """ZENITH,AZIMUTH of the sun, degrees (from straight up; clockwise from north); default: the machine's."""
    at: str | None = None
    """LATITUDE,LONGITUDE,TIME: the sun of a place (degrees, north and east positive) and a time with its zone, such as
    48.1,11.6,2026-06-21T12:00+02:00; instead of --sun."""
    model: Literal["conic", "blur", "traced"] = "blur"
    """Model of the light."""
    dni_w_m2: float | None = None
    """Direct normal irradiance, W/m2; default: the machine's."""
    rays: int = 400_000
    """Rays of the traced model."""
    plot: Path | None = None
    """Draw the irradiance into this file (.png, .pdf or .svg)."""


def run(argv: list[str]) -> int:
    """Run ``melter patch ...`` and return its exit code."""
    config = parse(PatchConfig, _joined(argv), "patch")
    scene = _scene(config)
    result = _MODELS[config.model](scene)
    result = {"model": config.model, "kind": scene.kind, **result, **_common(scene)}
    if config.plot is not None:
        _plot(config, scene, result)
    emit({**result, "plot": config.plot}, config.json, _screen(result))
    return 0


@dataclass(frozen=True, eq=False)
class _Scene:
    """Everything that is known before a model is asked."""

    optics: Any
    centre_world_m: Any
    rotation: Any
    sun_world: Any
    sand_height_m: float
    dni_w_m2: float
    rays: int
    seed: int
    focus_world_m: Any
    conic: Any
    outline_world_m: Any
    tilt_rad: float
    power_w: float

    @property
    def kind(self) -> str:
        """Of the conic."""
        return self.conic.kind


def _scene(config: PatchConfig) -> _Scene:
    from melter.cli.plots import require_plot_file
    from melter.geometry import conic
    from melter.geometry.light import LensOptics, power_w
    from melter.geometry.pose import rotation_about_world_xy, rotation_facing, sun_direction_world, work_centre_world_m
    from melter.machine import load_machine

    if config.plot is not None:
        require_plot_file(config.plot)
    require_in("--rays", config.rays, 1_000, 20_000_000)
    machine = load_machine(config.machine)
    optics, height = LensOptics.from_machine(machine), machine.sand.height_m
    zenith, azimuth = _sun_deg(config, (machine.sun.zenith_deg, machine.sun.azimuth_deg))
    tilt = _numbers("--tilt-deg", config.tilt_deg, 2)
    for name, value in zip(("RX", "RY"), tilt, strict=True):
        require_in(f"--tilt-deg {name}", value, -90, 90, " degrees")
    sun = sun_direction_world(math.radians(zenith), math.radians(azimuth))
    rotation = rotation_about_world_xy(*np.radians(tilt)) @ rotation_facing(sun)
    centre = work_centre_world_m([0.0, 0.0], sun, machine.lens.focal_length_m, height)
    if config.lens is not None:
        centre = np.array(_numbers("--lens", config.lens, 3))
        require_in("--lens X", centre[0], -50, 50, " m")
        require_in("--lens Y", centre[1], -50, 50, " m")
        require_in("--lens Z", centre[2], height + 0.01, 50, " m")
    dni = machine.sun.dni_w_m2 if config.dni_w_m2 is None else config.dni_w_m2
    require_in("--dni-w-m2", dni, 0, 1400, " W/m2")
    cosine = float(rotation[:, 2] @ sun)
    if cosine < math.cos(math.radians(80)):
        off = math.degrees(math.acos(max(cosine, -1.0)))
        raise BadInput(f"--tilt-deg {config.tilt_deg}: the lens is {off:.0f} degrees off the sun, 80 at most")
    focus = conic.focus_world_m(machine.lens.focal_length_m, centre, rotation, sun)
    edges = machine.lens.short_edge_m, machine.lens.long_edge_m
    cut = conic.cut_cone(focus, centre, rotation, conic.matching_radii_m(*edges), height)
    rim = conic.rectangle_lens_m(*edges)
    outline = conic.lit_outline_world_m(focus, rim, centre, rotation, height, REACH_M)
    angle = math.acos(min(cosine, 1.0))
    power = float(power_w(optics, angle, dni))
    return _Scene(
        optics, centre, rotation, sun, height, dni, config.rays, config.seed, focus, cut, outline, angle, power
    )


def _sun_deg(config: PatchConfig, default: tuple[float, float]) -> tuple[float, float]:
    """Zenith and azimuth angle, degrees, of --sun or --at."""
    zenith, azimuth = default
    name = "--sun"
    if config.sun is not None:
        zenith, azimuth = _numbers("--sun", config.sun, 2)
    if config.at is not None:
        if config.sun is not None:
            raise BadInput(f"--at {config.at}: not together with --sun {config.sun}")
        name = f"--at {config.at}:"
        zenith, azimuth = _sun_at(config.at)
    require_in(f"{name} zenith", zenith, 0, 85, " degrees")
    require_in(f"{name} azimuth", azimuth, -360, 360, " degrees")
    return zenith, azimuth


def _sun_at(text: str) -> tuple[float, float]:
    from datetime import datetime

    from melter.geometry.sun import sun_position_rad

    place, _, when = text.rpartition(",")
    latitude, longitude = _numbers("--at", place, 2)
    try:
        time = datetime.fromisoformat(when.strip())
    except ValueError:
        raise BadInput(f"--at {text}: {when!r} is not a time such as 2026-06-21T12:00+02:00") from None
    zenith, azimuth = sun_position_rad(latitude, longitude, time)
    return math.degrees(zenith), math.degrees(azimuth)


def _conic(scene: _Scene) -> dict[str, Any]:
    """The sharp cone of an ellipse with the aperture's second moments; its peak is that of the real aperture."""
    from melter.geometry.conic import rectangle_lens_m, sharp_peak_w_m2

    cut = scene.conic
    rim = rectangle_lens_m(scene.optics.short_edge_m, scene.optics.long_edge_m)
    peak = sharp_peak_w_m2(
        scene.power_w, scene.focus_world_m, rim, scene.centre_world_m, scene.rotation, scene.sand_height_m
    )
    return {
        "centre_m": cut.centre_world_m,
        "semi_axes_m": cut.semi_axes_m,
        "angle_rad": cut.angle_rad,
        "peak_w_m2": peak,
        "power_w": scene.power_w,
    }


def _blur(scene: _Scene) -> dict[str, Any]:
    from melter.geometry.light import fast_patch, peak_irradiance_w_m2, semi_axes_and_angle

    patch = fast_patch(scene.optics, scene.centre_world_m, scene.rotation, scene.sun_world, scene.sand_height_m)
    axes, angle = semi_axes_and_angle(*patch.covariance)
    return {
        "centre_m": patch.centre_world_m,
        "semi_axes_m": axes,
        "angle_rad": float(angle),
        "peak_w_m2": float(peak_irradiance_w_m2(scene.optics, patch, scene.dni_w_m2)),
        "power_w": scene.power_w,
        "patch_covariance_m2": [[float(patch.xx), float(patch.xy)], [float(patch.xy), float(patch.yy)]],
    }


def _traced(scene: _Scene) -> dict[str, Any]:
    patch = _trace(scene)
    axes, angle = patch.semi_axes_and_angle
    distance = np.sqrt(np.square(patch.hits_world_m - patch.centre_world_m).sum(axis=1))
    order = np.argsort(distance)
    within = np.cumsum(patch.ray_power_w[order]) / max(patch.delivered_w, 1e-300)
    radii = distance[order][np.minimum(np.searchsorted(within, [0.5, 0.9]), len(order) - 1)]
    return {
        "centre_m": patch.centre_world_m,
        "semi_axes_m": axes,
        "angle_rad": angle,
        "peak_w_m2": patch.peak_w_m2,
        "power_w": patch.delivered_w,
        "incident_w": patch.incident_w,
        "lost_w": patch.lost_w,
        "radius_half_power_m": float(radii[0]),
        "radius_90_percent_m": float(radii[1]),
    }


def _trace(scene: _Scene) -> Any:
    from melter.geometry.trace import trace_patch

    return trace_patch(
        scene.optics,
        scene.centre_world_m,
        scene.rotation,
        scene.sun_world,
        scene.sand_height_m,
        dni_w_m2=scene.dni_w_m2,
        rays=scene.rays,
        rng=np.random.default_rng(scene.seed),
    )


_MODELS = {"conic": _conic, "blur": _blur, "traced": _traced}


def _common(scene: _Scene) -> dict[str, Any]:
    ray = scene.focus_world_m - scene.centre_world_m
    reach = (scene.centre_world_m[2] - scene.sand_height_m) / scene.sun_world[2]
    return {
        "lens_world_m": scene.centre_world_m,
        "focus_world_m": scene.focus_world_m,
        "defocus_m": float(np.sqrt(ray @ ray) - reach),
        "tilt_rad": scene.tilt_rad,
        "sun_zenith_rad": math.acos(min(float(scene.sun_world[2]), 1.0)),
        "sun_azimuth_rad": math.atan2(scene.sun_world[0], scene.sun_world[1]) % (2 * math.pi),
        "outline_m": scene.outline_world_m,
    }


def _plot(config: PatchConfig, scene: _Scene, result: dict[str, Any]) -> None:
    from melter.cli.plots import patch_figure, save

    if config.model == "traced":
        grid, x, y = _trace(scene).irradiance_w_m2()
    else:
        grid, x, y = _drawn(config, scene, result)
    title = f"{config.model}: {scene.kind}, {result['peak_w_m2'] / 1e3:.0f} kW/m2 at most"
    axes = result["centre_m"], result["semi_axes_m"], result["angle_rad"]
    save(patch_figure(title, grid, x, y, scene.outline_world_m, axes), config.plot or Path())


def _drawn(config: PatchConfig, scene: _Scene, result: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Irradiance on a grid by the conic (uniform inside the sharp outline) or the blurred model (a Gaussian)."""
    centre, axes = np.asarray(result["centre_m"], dtype=float), np.asarray(result["semi_axes_m"], dtype=float)
    if not (np.isfinite(centre).all() and np.isfinite(axes).all() and (axes > 0).all()):
        raise BadInput(f"--plot {config.plot}: the {config.model} model has no irradiance to draw ({scene.kind})")
    x, y = (np.linspace(c - 2.5 * axes[0], c + 2.5 * axes[0], 201) for c in centre)
    mesh = np.stack(np.meshgrid(*(0.5 * (e[1:] + e[:-1]) for e in (x, y)), indexing="ij"), axis=-1)
    if config.model == "conic":
        from melter.geometry.conic import sharp_irradiance_w_m2

        edges = scene.optics.short_edge_m, scene.optics.long_edge_m
        pose = scene.focus_world_m, scene.centre_world_m, scene.rotation, scene.sand_height_m
        return sharp_irradiance_w_m2(mesh, scene.power_w, edges, *pose), x, y
    turn = np.array([[c := math.cos(result["angle_rad"]), s := math.sin(result["angle_rad"])], [-s, c]])
    square = np.square(((mesh - centre) @ turn.T) / axes).sum(axis=-1)
    return np.exp(-2 * square) * result["peak_w_m2"], x, y


def _joined(argv: list[str]) -> list[str]:
    """Options with negative numbers in a list (``--lens -0.1,0,1``) written as one word."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in VECTORS and word[:1] == "-" and word[1:2] in set("0123456789."):
            words[-1] = f"{words[-1]}={word}"
        else:
            words.append(word)
    return words


def _numbers(name: str, text: str, count: int) -> tuple[float, ...]:
    """Return ``count`` finite numbers of a comma-separated text; raises BadInput."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise BadInput(f"{name} {text}: must be {count} finite numbers with commas between them")
    return values


def _screen(result: dict[str, Any]) -> str:
    centre, axes = (np.asarray(result[key], dtype=float) for key in ("centre_m", "semi_axes_m"))
    angle, tilt = math.degrees(result["angle_rad"]), math.degrees(result["tilt_rad"])
    lines = [
        f"{result['model']}: {result['kind']}",
        f"centre     {centre[0]:+.4f}, {centre[1]:+.4f} m",
        f"semi-axes  {axes[0] * 1e3:.2f}, {axes[1] * 1e3:.2f} mm at {angle:.1f} deg from world x",
        f"peak       {result['peak_w_m2'] / 1e3:.1f} kW/m2 of {result['power_w']:.0f} W",
        f"defocus    {result['defocus_m'] * 1e3:+.1f} mm (sand nearer the lens +), tilt {tilt:.2f} deg",
    ]
    if "radius_half_power_m" in result:
        half, most = result["radius_half_power_m"] * 1e3, result["radius_90_percent_m"] * 1e3
        lines.append(f"radius     {half:.1f} mm holds half of the power, {most:.1f} mm 90 %")
    return "\n".join(lines)
