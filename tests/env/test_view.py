import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from melter.env import gl
from melter.env.drawing import eye_for, tracks
from melter.env.gym_env import make_batch
from melter.env.look import look_at, tension_colour
from melter.env.view import SideBySide, View, machine_picture
from melter.errors import BadInput
from melter.machine import load_machine, packaged_machines


@pytest.fixture(autouse=True)
def no_gl(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    gl.working_gl.cache_clear()
    yield
    gl.working_gl.cache_clear()


@pytest.fixture
def batch():
    batch = make_batch("corner8", 2, "train", 1)
    batch.reset(np.array([0, 1]), [3, 4], [0, 0])
    return batch


def test_draws_without_opengl(batch):
    view = View(batch, 1, (320, 180))
    first = view.picture()
    assert first.shape == (180, 320, 3)
    assert first.dtype == np.uint8
    assert first.std() > 10
    for _ in range(10):
        batch.step(np.full((2, 8), 0.3))
    assert (view.picture() != first).any()
    view.close()


def test_no_opengl_library_is_loaded_by_the_drawn_view():
    code = (
        "import sys, numpy as np\n"
        "from melter.env.gym_env import make_batch\n"
        "from melter.env.view import View\n"
        "b = make_batch('corner8', 1, 'nominal', 1)\n"
        "b.reset(np.array([0]), [0], [0])\n"
        "assert View(b, 0, (96, 64)).picture().any()\n"
        "assert not [m for m in sys.modules if m.startswith(('mujoco.egl', 'mujoco.osmesa', 'OpenGL.GL'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_trace_grows_and_starts_anew_with_the_episode(batch):
    view = View(batch, 0, (96, 64))
    for _ in range(5):
        view.look()
        batch.step(np.zeros((2, 8)))
    assert len(view.look().trace_world_m) == 6
    assert len(view.look().trace_world_m) == 6
    batch.reset(np.array([0]), [3], [1])
    look = view.look()
    assert len(look.trace_world_m) == 1
    np.testing.assert_array_equal(look.trace_world_m[0], look.spot_world_m)


def test_a_trace_has_gaps_where_nothing_melts():
    nan, points = np.nan, [(0.0, 0.0), (0.1, 0.0), (0.3, 0.0), (0.4, 0.0), (0.5, 0.0)]
    trace = np.array([*points[:2], (nan, nan), (nan, nan), *points[2:], (nan, nan)])
    first, second = tracks(trace)
    np.testing.assert_array_equal(first, points[:2])
    np.testing.assert_array_equal(second, points[2:])
    assert tracks(np.full((2, 2), nan)) == tracks(np.zeros((0, 2))) == []


def test_side_by_side(batch):
    view, alone = SideBySide(batch, ("one", "other"), (200, 160)), View(batch, 1, (200, 160), "other")
    both = view.picture()
    assert both.shape == (160, 400, 3)
    np.testing.assert_array_equal(both[:, 200:], alone.picture())
    assert alone.look().caption[0] == "other"
    view.close()
    alone.close()


def test_caption_tells_time_error_and_tensions(batch):
    _, state = batch.step(np.zeros((2, 8)))
    caption = " ".join(View(batch, 1, (96, 64)).look().caption)
    assert "t 0.1 s" in caption or "t 0.0 s" in caption
    assert f"spot error {1e3 * state.spot_error_m[1]:.2f} mm" in caption
    assert f"tension {state.tensions_n[1].min():.0f} to {state.tensions_n[1].max():.0f} N" in caption


def test_a_diverged_simulation_can_still_be_drawn(batch):
    view = View(batch, 0, (160, 90))
    batch.physics.centre_world_m[0] = np.nan
    batch.patch[0] = np.nan
    assert not view.look().drawable
    assert view.picture().shape == (90, 160, 3)


def test_environment_renders():
    env = gymnasium.make("melter/SandMelter-v0", render_mode="rgb_array")
    env.reset(seed=1)
    env.step(np.zeros(8, dtype=np.float32))
    picture = env.render()
    assert picture.shape == (540, 960, 3)
    env.close()


def test_colours_follow_the_band():
    machine = load_machine()
    low, high = machine.limits.tension_min_n, machine.limits.tension_max_n
    blue, green, red = (tension_colour(t, machine)[:3] for t in (0.0, (low + high) / 2, high + 1))
    assert np.argmax(blue) == 2
    assert np.argmax(green) == 1
    assert np.argmax(red) == 0


@pytest.mark.parametrize("name", packaged_machines())
@pytest.mark.parametrize("size_px", [(960, 540), (400, 600)])
def test_the_whole_machine_is_in_view(name, size_px):
    machine = load_machine(name)
    pixels, depth = eye_for(machine, size_px).project(machine.pulleys_world_m)
    assert (depth > 0.5).all()
    assert (pixels > 0).all()
    assert (pixels < size_px).all()


def test_light_of_a_machine_at_work_is_on_its_spot():
    look = look_at(load_machine(), (0.1, -0.2))
    np.testing.assert_allclose(look.spot_world_m, (0.1, -0.2), atol=2e-3)
    assert np.ptp(look.cone_foot_world_m, axis=0).max() < 1e-6, "in focus the cone ends in a point"
    parked = look_at(load_machine(), None)
    assert np.ptp(parked.cone_foot_world_m, axis=0)[:2].max() > 0.3


def test_machine_picture_writes_a_png(tmp_path):
    machine_picture(load_machine(), tmp_path / "m.png", (320, 180))
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    for bad in (tmp_path / "m.jpg", tmp_path / "gone" / "m.png"):
        with pytest.raises(BadInput):
            machine_picture(load_machine(), bad)


def test_refuses_what_is_not_there(batch):
    for index, size_px in ((2, (96, 64)), (-1, (96, 64)), (0, (10, 64)), (0, (96, 5000))):
        with pytest.raises(BadInput):
            View(batch, index, size_px)


def test_probe_survives_a_broken_and_a_hanging_driver(monkeypatch):
    monkeypatch.setattr(gl, "PROBE_TIMEOUT_S", 0.5)
    for code in ("import os; os.abort()", "import time; time.sleep(60)", "raise SystemExit(3)", "print('blank')"):
        monkeypatch.setattr(gl, "_PROBE", code)
        assert not gl._works("egl")
    assert gl.working_gl() is None
