"""An option whose value may be left out."""

from __future__ import annotations

import pytest

from melter.cli.elsewhere import is_url, with_default


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ([], []),
        (["--ray"], ["--ray", "local"]),
        (["--ray", "--steps", "5"], ["--ray", "local", "--steps", "5"]),
        (["--ray", "host:1", "--steps", "5"], ["--ray", "host:1", "--steps", "5"]),
        (["--ray=host:1"], ["--ray=host:1"]),
        (["--steps", "5", "--ray", "auto"], ["--steps", "5", "--ray", "auto"]),
    ],
)
def test_an_address_may_be_left_out(given: list[str], meant: list[str]) -> None:
    assert with_default(given, "--ray", "local") == meant


def test_urls() -> None:
    assert is_url("s3://a/b")
    assert not is_url("runs/a")
    assert not is_url(None)
