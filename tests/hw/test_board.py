import pytest
from hw_bench import MACHINE, SETTINGS

from melter.hw.board import describe, differences, setting_lines, settings_for, slowest_acceleration_m_s2


def read(changes=None) -> dict[int, str]:
    return {number: f"{value:.3f}" for number, value in (SETTINGS | (changes or {})).items()}


def test_settings_come_from_the_machine_file():
    settings = settings_for(MACHINE)
    assert [settings[100 + axis] for axis in range(8)] == [100.0] * 8
    assert settings[110] == 7200.0
    assert settings[127] == 1000.0


def test_what_suits_has_no_differences():
    assert differences(MACHINE, read()) == []
    bare = {number: value for number, value in read().items() if number not in (20, 40, 376)}
    assert differences(MACHINE, bare) == []


@pytest.mark.parametrize(
    ("number", "good", "bad"),
    [
        (100, 100.009, 100.02),
        (100, 99.991, 99.98),
        (110, 7199.5, 7190),
        (110, 9000, 9001),
        (120, 1000, 990),
        (120, 1250, 1260),
        (376, 0, 1),
    ],
)
def test_both_sides_of_each_limit(number, good, bad):
    assert differences(MACHINE, read({number: good})) == []
    (difference,) = differences(MACHINE, read({number: bad}))
    assert difference.wanted.number == number
    assert f"${number}" in str(difference)


def test_missing_and_malformed_settings_differ():
    settings = read()
    del settings[105]
    settings[106] = "abc"
    assert [one.found for one in differences(MACHINE, settings)] == [None, None]
    assert "missing" in describe(differences(MACHINE, settings))


def test_the_list_is_one_line_and_bounded():
    listed = differences(MACHINE, {})
    assert len(listed) == 25
    assert describe(listed).endswith("and 21 more")
    assert "\n" not in describe(listed)
    assert setting_lines(listed)[-1] == b"$127=1000\n"


def test_braking_is_reckoned_with_the_slowest_axis():
    assert slowest_acceleration_m_s2(read({123: 1200, 124: 1100}), MACHINE) == pytest.approx(1.0)
    assert slowest_acceleration_m_s2({}, MACHINE) == pytest.approx(1.0)
