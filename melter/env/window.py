"""A window on a simulated machine, where there is a display."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

import mujoco as _mujoco

from melter.env.batch import SandMelterBatch
from melter.errors import BadInput

mujoco: Any = _mujoco
"""Its names come from compiled modules that type checkers cannot read."""


def has_display() -> bool:
    """Return whether a window can be expected to open here."""
    if os.environ.get("MUJOCO_GL", "").strip().lower() in ("egl", "osmesa", "disable", "disabled", "off", "false", "0"):
        return False
    shown = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return shown and find_spec("glfw") is not None


class Window:
    """MuJoCo's viewer on one simulation of a batch. A context manager. Raises BadInput where it cannot open."""

    def __init__(self, batch: SandMelterBatch, index: int = 0) -> None:
        self._batch, self._index = batch, index
        self._viewer: Any = None

    def __enter__(self) -> Self:
        data = self._batch.physics.data_of(self._index)
        self._data, self._model = data, self._batch.physics.model
        try:
            from mujoco import viewer

            self._viewer = viewer.launch_passive(self._model, data, show_left_ui=False, show_right_ui=False)
        except Exception as error:  # whatever the window system raises
            raise BadInput(f"window: cannot be opened ({error}); use --video FILE") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._viewer is not None:
            self._viewer.close()

    def show(self) -> bool:
        """Show the present moment; return False once the window is closed."""
        if self._viewer is None or not self._viewer.is_running():
            return False
        fresh = self._batch.physics.data_of(self._index)
        with self._viewer.lock():
            mujoco.mj_copyData(self._data, self._model, fresh)
        self._viewer.sync()
        return True
