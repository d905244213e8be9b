"""A window that shows pictures as they are made, where there is a display. Needs Tk, which most Pythons have; no OpenGL."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput


def has_display() -> bool:
    """Return whether a window can be expected to open here."""
    shown = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return shown and find_spec("tkinter") is not None and find_spec("_tkinter") is not None


class Window:
    """Shows pictures; closed by its button, q or Escape. A context manager. Raises BadInput where it cannot open."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._root: Any = None
        self._image: Any = None

    def __enter__(self) -> Self:
        try:
            import tkinter

            self._tk: Any = tkinter
            self._root = tkinter.Tk()
        except Exception as error:  # no Tk, no display, or a display that refuses
            raise BadInput(f"window: cannot be opened ({error}); use --video FILE") from None
        self._root.title(self._title)
        self._label = self._tk.Label(self._root, borderwidth=0)
        self._label.pack()
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        for key in ("q", "<Escape>"):
            self._root.bind(key, self._close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def show(self, picture: NDArray[np.uint8]) -> bool:
        """Show (h, w, 3) RGB; return False once the window is closed."""
        if self._root is None:
            return False
        height, width = picture.shape[:2]
        content = b"P6 %d %d 255 " % (width, height) + np.ascontiguousarray(picture).tobytes()
        self._image = self._tk.PhotoImage(data=content, format="PPM")
        self._label.configure(image=self._image)
        self._root.update()
        return self._root is not None

    def _close(self, *_: object) -> None:
        root, self._root = self._root, None
        if root is not None:
            root.destroy()
