"""Every timeout of the tests is longer on a slow machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SLOW = """
import time

import pytest

from tests.waiting import scaled, until


def test_limits_are_longer(request):
    assert scaled(2) == 6
    began = time.monotonic()
    with pytest.raises(AssertionError, match="not after 0.3 s: things"):
        until(lambda: False, 0.1, lambda: "things")
    assert time.monotonic() - began > 0.3
    assert request.node.get_closest_marker("timeout").args == (360.0,)


@pytest.mark.timeout(200)
def test_own_limits_are_longer(request):
    assert request.node.get_closest_marker("timeout").args == (600.0,)


@pytest.fixture
def servers():
    time.sleep(1.2)


@pytest.mark.browser
@pytest.mark.timeout(0.3)
def test_what_starts_before_a_test_in_the_browser_takes_none_of_its_time(servers):
    pass
"""


def test_a_time_factor_makes_every_limit_longer(tmp_path: Path) -> None:
    (tmp_path / "test_slow.py").write_text(SLOW)
    repository = Path(__file__).parents[1]
    # A directory of its own: without one, pytest clears here what earlier runs left, for minutes.
    own = f"--basetemp={tmp_path / 'own'}"
    options = ["-q", "-n0", own, f"-c{repository / 'pyproject.toml'}", "-ptests.conftest"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        env={**os.environ, "NRT_TIME_FACTOR": "3"},
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert "3 passed" in ran.stdout, ran.stdout + ran.stderr
