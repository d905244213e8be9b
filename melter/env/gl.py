"""The solid parts of a machine drawn by MuJoCo, where EGL or OSMesa works.

Whether they work is found out in another process, because a broken OpenGL can crash or hang the one that asks.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import mujoco as _mujoco
import numpy as np

from melter.env.drawing import FIELD_OF_VIEW_RAD, GROUND, SAND, SKY_LOW, SKY_TOP, Eye, Picture
from melter.env.look import Look
from melter.env.mjcf import machine_xml
from melter.machine import Machine

mujoco: Any = _mujoco
"""Its names come from compiled modules that type checkers cannot read."""

PROBE_TIMEOUT_S = 20.0
SHADOW_MAP_PX = 2048
_PROBE = """
import sys, importlib, numpy, mujoco
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(32, 32)
context.make_current()
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1" rgba="1 1 1 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
scene, camera = mujoco.MjvScene(model, 10), mujoco.MjvCamera()
camera.distance = 3
mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, 7, scene)
drawing = mujoco.MjrContext(model, 100)
mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, drawing)
picture = numpy.zeros((32, 32, 3), numpy.uint8)
mujoco.mjr_render(mujoco.MjrRect(0, 0, 32, 32), scene, drawing)
mujoco.mjr_readPixels(picture, None, mujoco.MjrRect(0, 0, 32, 32), drawing)
sys.stdout.write("works" if picture.max() > 100 else "blank")
"""


@functools.cache
def working_gl() -> str | None:
    """Return ``egl`` or ``osmesa`` if MuJoCo can draw with it here, else None. ``MUJOCO_GL`` narrows the choice."""
    wanted = os.environ.get("MUJOCO_GL", "").strip().lower()
    if wanted in ("disable", "disabled", "off", "false", "0") or sys.platform != "linux":
        return None
    names = (wanted,) if wanted in ("egl", "osmesa") else ("egl", "osmesa")
    return next((name for name in names if _works(name)), None)


def _works(name: str) -> bool:
    quiet = {**os.environ, "MUJOCO_GL": "disable"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, name], capture_output=True, timeout=PROBE_TIMEOUT_S, env=quiet, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.endswith(b"works")


class SolidRenderer:
    """Draws sand, frame, lens and struts of one machine as an :class:`Eye` sees them."""

    def __init__(self, machine: Machine, eye: Eye, name: str) -> None:
        """``name``: what :func:`working_gl` returned."""
        self._model, self._eye = _model(machine, eye), eye
        self._data = mujoco.MjData(self._model)
        self._scene = mujoco.MjvScene(self._model, 200)
        self._option = mujoco.MjvOption()
        self._option.flags[mujoco.mjtVisFlag.mjVIS_TENDON] = 0
        self._option.sitegroup[:] = 0
        self._camera = _camera(eye)
        width, height = eye.size_px
        self._area = mujoco.MjrRect(0, 0, width, height)
        self._gl = _context(name, width, height)
        self._gl.make_current()
        self._drawing: Any = mujoco.MjrContext(self._model, int(mujoco.mjtFontScale.mjFONTSCALE_100))
        mujoco.mjr_setBuffer(int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN), self._drawing)

    def picture(self, look: Look) -> Picture:
        """Return (h, w, 3) RGB."""
        self._gl.make_current()
        model, data, scene = self._model, self._data, self._scene
        if look.drawable:
            data.qpos[:3] = look.centre_world_m
            mujoco.mju_mat2Quat(data.qpos[3:7], np.ascontiguousarray(look.rotation).ravel())
        model.light_dir[0] = -look.sun_world
        model.light_pos[0] = 6 * look.sun_world
        mujoco.mj_forward(model, data)
        mujoco.mjv_updateScene(model, data, self._option, None, self._camera, int(mujoco.mjtCatBit.mjCAT_ALL), scene)
        mujoco.mjr_render(self._area, scene, self._drawing)
        picture = np.empty((self._area.height, self._area.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, self._area, self._drawing)
        return picture[::-1]

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._drawing is not None:
            self._gl.make_current()
            self._drawing.free()
            self._gl.free()
            self._drawing = None


def _context(name: str, width: int, height: int) -> Any:
    if name == "egl":
        from mujoco.egl import GLContext
    else:
        from mujoco.osmesa import GLContext
    return GLContext(width, height)


def _camera(eye: Eye) -> Any:
    camera = mujoco.MjvCamera()
    x, y, z = eye.axes[2]
    camera.lookat[:] = eye.look_at_world_m
    camera.distance = eye.distance_m
    camera.azimuth = float(np.degrees(np.arctan2(y, x)))
    camera.elevation = float(np.degrees(np.arcsin(z)))
    return camera


def _model(machine: Machine, eye: Eye) -> Any:
    """The machine's model with a sky, wide ground and the sun as its light."""
    spec: Any = mujoco.MjSpec.from_string(machine_xml(machine, 0.002))
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=SKY_TOP,
        rgb2=SKY_LOW,
        width=128,
        height=128 * 6,
    )
    spec.visual.global_.offwidth, spec.visual.global_.offheight = eye.size_px
    spec.visual.global_.fovy = float(np.degrees(FIELD_OF_VIEW_RAD))
    spec.visual.quality.shadowsize, spec.visual.map.shadowclip = SHADOW_MAP_PX, 3.0
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = [0.45] * 3, [0.25] * 3
    spec.visual.headlight.specular = [0.0] * 3
    ground, bed = spec.geom("ground"), spec.geom("bed")
    ground.size, ground.rgba = [0, 0, 1], GROUND
    bed.material, bed.rgba = "", SAND
    light = spec.worldbody.lights[0]
    light.type, light.castshadow = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, True
    light.diffuse, light.specular = [0.45] * 3, [0.1] * 3
    return spec.compile()
