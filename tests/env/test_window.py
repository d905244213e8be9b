"""The live window, with a stand-in for Tk: no display is needed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from melter.env.window import Window, has_display
from melter.errors import BadInput


class Root:
    def __init__(self):
        self.keys, self.updates, self.destroyed = {}, 0, False

    def title(self, words):
        self.words = words

    def protocol(self, name, then):
        self.keys[name] = then

    def bind(self, key, then):
        self.keys[key] = then

    def update(self):
        self.updates += 1

    def destroy(self):
        assert not self.destroyed
        self.destroyed = True


@pytest.fixture
def tk(monkeypatch):
    label = SimpleNamespace(pack=lambda: None, configure=lambda **_: None)
    root, images = Root(), []
    module = SimpleNamespace(
        Tk=lambda: root, Label=lambda *_, **__: label, PhotoImage=lambda **of: images.append((of["data"], of["format"]))
    )
    monkeypatch.setitem(sys.modules, "tkinter", module)
    return SimpleNamespace(root=root, images=images)


def test_shows_pictures_until_it_is_closed(tk):
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    with Window("a title") as window:
        assert window.show(picture)
        assert tk.images == [(b"P6 3 2 255 " + bytes(range(18)), "PPM")]
        tk.root.keys["q"]("event")
        assert not window.show(picture)
    assert tk.root.words == "a title"
    assert tk.root.updates == 1
    assert tk.root.destroyed


def test_the_close_button_and_escape_close_it(tk):
    for key in ("WM_DELETE_WINDOW", "<Escape>"):
        tk.root.destroyed = False
        with Window("") as window:
            tk.root.keys[key]()
            assert tk.root.destroyed
            assert not window.show(np.zeros((1, 1, 3), np.uint8))


def test_where_none_can_open(monkeypatch):
    def refuse():
        raise RuntimeError("no display")

    monkeypatch.setitem(sys.modules, "tkinter", SimpleNamespace(Tk=refuse))
    with pytest.raises(BadInput, match=r"no display.*--video"):
        Window("").__enter__()


def test_a_display_is_told_by_the_environment(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not has_display()
    monkeypatch.setattr("melter.env.window.find_spec", lambda name: object())
    assert not has_display()
    monkeypatch.setenv("DISPLAY", ":0")
    assert has_display()
    monkeypatch.setattr("melter.env.window.find_spec", lambda name: None)
    assert not has_display()
