import json
from pathlib import Path

import pytest

from melter.cli.main import main


def test_corner8_holds(capsys) -> None:
    assert main(["machine", "check", "--json", "--no-advice"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["feasible_share"] == 1
    assert report["by_zenith_deg"]["25"] == 1
    assert 0.8 < report["by_zenith_deg"]["40"] < 0.95
    assert report["min_clearance_m"] > 0.02
    assert report["problems"] == []
    assert report["holds"] is True
    assert report["margin_n"] > 0
    assert report["wind_max_m_s"] > 5
    assert set(report["clearances_m"]) == {"cable-light", "cable-cable", "cable-lens", "cable-frame", "lens-frame"}
    assert report["min_clearance_m"] == min(report["clearances_m"].values())
    assert report["by_zenith_deg"].keys() == report["bed_by_zenith_deg"].keys()


def test_the_answer_comes_first(capsys) -> None:
    assert main(["machine", "check", "--no-advice"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("corner8 holds its lens: in every pose asked for, with ")


def test_vitrifier_does_not_and_says_why_and_what_would_help(capsys, tmp_path: Path) -> None:
    plot = tmp_path / "map.png"
    assert main(["machine", "check", "vitrifier", "--plot", str(plot)]) == 1
    screen = capsys.readouterr().out
    first = screen.splitlines()[0]
    assert first.startswith("vitrifier does NOT hold its lens: in 9")
    assert first.endswith("mostly a cable would have to push, and cables only pull.")
    assert "(the changed machine was checked as a whole)" in screen
    assert "struts" in screen
    assert len(screen.splitlines()) <= 50
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert list(tmp_path.iterdir()) == [plot]


@pytest.mark.parametrize(
    "argv",
    [
        ["machine", "check", "nowhere.toml"],
        ["machine", "check", "--plot", "map.xyz"],
        ["machine", "check", "--plot", "/nonexistent/map.png"],
        ["machine", "check", "--nonsense"],
        ["machine", "inspect"],
    ],
)
def test_bad_input_is_one_line_and_exit_2(argv, capsys) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1


def test_a_file_with_a_changed_machine_is_judged_by_its_own_numbers(capsys, tmp_path: Path) -> None:
    from melter.machine import load_machine

    assert load_machine("corner8").limits.tension_max_n == 300
    source = (Path(__file__).parents[2] / "models" / "corner8.toml").read_text()
    weak = tmp_path / "weak.toml"
    weak.write_text(source.replace("tension_max_n = 300.0", "tension_max_n = 60.0"))
    assert main(["machine", "check", str(weak), "--json", "--no-advice"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["limited_by"]["a cable above tension_max_n"] > 0.5
    assert report["feasible_share"] < 0.9


def test_a_machine_that_holds_but_whose_cables_come_too_near_says_so(capsys, tmp_path: Path) -> None:
    source = (Path(__file__).parents[2] / "models" / "corner8.toml").read_text()
    tight = tmp_path / "tight.toml"
    tight.write_text(source.replace("0.30]", "0.26]"))
    assert main(["machine", "check", str(tight), "--no-advice"]) == 1
    screen = capsys.readouterr().out
    assert screen.startswith(
        "corner8 holds its lens in every pose asked for, but cannot work as it is: a cable comes within"
    )
    assert "mm of the light, 20 mm needed" in screen
