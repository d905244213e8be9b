"""``melter calibrate bed``: where the camera stands over the bed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from melter.cli.common import Common, emit, parse, plain, require_new, say
from melter.errors import CameraError
from melter.machine import load_machine


@dataclass(frozen=True, kw_only=True)
class BedConfig(Common):
    """Where the camera stands over the bed, from the markers in one frame."""

    source: Positional[str]
    """Image, folder, video, camera index or URL; the first frame with markers is used."""
    calibration: str | None = None
    """Camera calibration (JSON); without it, lens distortion is not corrected."""
    pose_model: str | None = None
    """Pose network: an ONNX file of 'melter vision train', or 'packaged'. Checks what the markers say, and gives a rough
    bed where no marker is seen."""
    out: str = "bed.json"
    """File to write."""
    frames: int = 100
    """Look at no more than this many frames."""
    force: bool = False
    """Replace an existing file."""


def run(argv: list[str]) -> int:
    """Solve the bed; return 0 when a file was written."""
    config = parse(BedConfig, argv, "calibrate bed")
    require_new(config.out, config.force)
    from melter.vision.bed import solve_bed
    from melter.vision.calibration import load_calibration, write_text
    from melter.vision.camera import BrokenFrame, open_camera
    from melter.vision.markers import markers_of_other_dictionaries

    machine = load_machine(config.machine)
    calibration = load_calibration(config.calibration) if config.calibration else None
    trouble = f"source {config.source}: no frame that can be read"
    view, image = None, None
    model = _pose_model(config, machine)
    with open_camera(config.source) as stream:
        for count, frame in enumerate(stream.frames(), start=1):
            if isinstance(frame, BrokenFrame):
                trouble = frame.reason
                continue
            image = frame.image
            try:
                view = solve_bed(frame.image, machine, calibration)
                break
            except CameraError as error:
                trouble = f"{frame.source}: {error}"
            if count >= config.frames:
                break
    second = _second_opinion(model, view, image, machine, calibration)
    view = second.pop("view", view)
    if view is None:
        others = markers_of_other_dictionaries(image, machine.bed.marker) if image is not None else ""
        raise CameraError(trouble + (f"; {others}" if others else ""))
    table = plain(
        {
            "image_size_px": view.image_size_px,
            "homography": view.homography,
            "camera_position_world_m": view.camera_position_world_m,
            "rotation_camera_world": view.rotation_camera_world,
            "residual_px": view.residual_px,
            "residual_m": view.residual_m,
            "centre_std_m": [float(v) ** 0.5 for v in view.covariance_m2((0.0, 0.0)).diagonal()],
            "markers": view.markers_seen,
            "undistorted": calibration is not None,
            "remarks": view.remarks,
            **second,
        }
    )
    write_text(config.out, json.dumps(table, indent=2) + "\n")
    for remark in (*view.remarks, *([second["warning"]] if second.get("warning") else [])):
        say(remark)
    share = len(view.markers_seen) / len(machine.bed.marker)
    residual = f"residual {view.residual_px:.3f} px = {1000 * view.residual_m:.2f} mm"
    text = f"{config.out}: markers {list(view.markers_seen)}, {residual}"
    emit({"file": config.out, "residual": view.residual_px, "confidence": share, **table}, config.json, text)
    return 0


def _pose_model(config: BedConfig, machine: Any) -> Any:
    if config.pose_model is None:
        return None
    from melter.vision.pose.model import load_pose_model

    return load_pose_model(config.pose_model, machine)


def _second_opinion(model: Any, view: Any, image: Any, machine: Any, calibration: Any) -> dict[str, Any]:
    """What the pose network says about the last picture: a view where there is none, else whether it agrees."""
    if model is None or image is None:
        return {}
    from melter.vision.pose.check import disagreement, view_without_markers

    if view is None:
        rough = view_without_markers(model, image, machine, calibration)
        return {"view": rough} if rough is not None else {}
    found = model.estimate(image, calibration, near_world_m=view.camera_position_world_m)
    apart = disagreement(view, found) if found is not None and found.sure else None
    if apart is None:
        return {"pose_network": "not sure"}
    warning = f"the pose network does not agree with the markers: {apart}; check the calibration and the machine file"
    return {
        "pose_network": "disagrees" if apart.large else "agrees",
        "pose_angle_rad": apart.angle_rad,
        "pose_distance_share": apart.distance,
        **({"warning": warning} if apart.large else {}),
    }
