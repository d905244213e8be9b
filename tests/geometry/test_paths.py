"""Paths on the sand: shapes, feed, files, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melter.errors import BadInput
from melter.geometry.paths import SandPath, parse_path


def test_square() -> None:
    path = parse_path("square:0.3", 0.003)
    assert path.length_m == pytest.approx(1.2)
    assert path.duration_s == pytest.approx(400)
    assert np.abs(path.points_world_m).max() == 0.15
    np.testing.assert_array_equal(path.points_world_m[0], path.points_world_m[-1])


def test_circle_by_its_diameter() -> None:
    path = parse_path("circle:0.2", 0.003)
    np.testing.assert_allclose(np.hypot(*path.points_world_m.T), 0.1)
    assert path.length_m == pytest.approx(np.pi * 0.2, rel=1e-3)
    np.testing.assert_array_equal(path.points_world_m[0], path.points_world_m[-1])


def test_line() -> None:
    np.testing.assert_allclose(parse_path("line:0.1", 0.01).target_world_m([0, 5, 10]), [(-0.05, 0), (0, 0), (0.05, 0)])


@given(st.sampled_from(["square:0.3", "circle:0.2", "line:0.4"]), st.floats(0.0005, 0.03), st.floats(0, 1))
def test_the_target_moves_at_the_feed(shape: str, feed: float, share: float) -> None:
    path = parse_path(shape, feed)
    t, dt = share * path.duration_s, 1e-3 * path.duration_s
    here, there = path.target_world_m([t, t + dt])
    assert np.hypot(*(there - here)) <= feed * dt * (1 + 1e-9)
    whole = path.target_world_m(np.linspace(0, path.duration_s, 20_001))
    assert np.hypot(*np.diff(whole, axis=0).T).sum() == pytest.approx(path.length_m, rel=1e-3)


def test_held_at_both_ends() -> None:
    path = parse_path("line:0.1", 0.01)
    np.testing.assert_allclose(path.target_world_m([-5, 1e6]), [(-0.05, 0), (0.05, 0)])


def test_a_path_does_not_change() -> None:
    points = np.array([(0.0, 0.0), (1.0, 0.0)])
    path = SandPath(points, 0.01)
    points[0, 0] = 9
    assert path.points_world_m[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        path.points_world_m[0, 0] = 1


def test_a_file_of_points(tmp_path: Path) -> None:
    file = tmp_path / "path.csv"
    file.write_text("0,0\n0.1,0\n0.1,0.05\n")
    assert parse_path(str(file), 0.01).length_m == pytest.approx(0.15)


@pytest.mark.parametrize(
    "text",
    [
        "square:",
        "square",
        "square:x",
        "square:nan",
        "square:inf",
        "square:0",
        "square:-1",
        "square:50",
        "heart:0.1",
        "",
    ],
)
def test_refused_shapes(text: str) -> None:
    with pytest.raises(BadInput, match="path") as caught:
        parse_path(text, 0.01)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "0,0\n", "0\n1\n", "0,0\n1,nan\n", "0,0\n1,inf\n", "a,b\nc,d\n", "0,0,0\n1,1,1\n", "0,0\n1\n"]
)
def test_refused_files(content: str, tmp_path: Path) -> None:
    file = tmp_path / "path.csv"
    file.write_text(content)
    with pytest.raises(BadInput, match="path") as caught:
        parse_path(str(file), 0.01)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("feed", [0.0, -0.01, float("nan"), float("inf")])
def test_refused_feeds(feed: float) -> None:
    with pytest.raises(BadInput, match="feed"):
        parse_path("square:0.3", feed)


def test_closed_paths_go_round_and_open_ones_end() -> None:
    square, line = parse_path("square:0.2", 0.01), parse_path("line:0.2", 0.01)
    round_and_round = square.going_round(200.0)
    assert round_and_round.duration_s == pytest.approx(240.0)
    assert round_and_round.target_world_m(95.0) == pytest.approx(square.target_world_m(15.0))
    assert square.going_round(80.0) is square
    assert line.going_round(100.0) is line
