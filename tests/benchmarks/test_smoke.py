"""Every benchmark still runs, small; no time is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.__main__ import names, run
from tests.benchmarks.harness import OURS, Result, markdown, ratio, write

QUICK = ("decode", "history", "table")
"""Those that start no stack and take seconds; the others run at night."""


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.nightly) for name in names()],
)
def test_a_benchmark_runs_and_measures_this_package_against_its_peers(name: str) -> None:
    results = run([name], quick=True)
    assert {result.side.partition(" ")[0] for result in results} > {OURS}
    # An operator may hold nothing beside its result.
    assert all(result.median > 0 for result in results if not result.case.endswith("of it state"))
    assert all(result.case in markdown(results) for result in results)


def test_the_ratio_is_to_the_best_peer() -> None:
    ours = Result("s", "c", OURS, 2.0)
    peers = [Result("s", "c", "a", 8.0), Result("s", "c", "b", 6.0)]
    assert ratio(ours, peers) == 3.0


def test_a_suite_that_did_not_run_keeps_its_results(tmp_path: Path) -> None:
    write([Result("old", "c", OURS, 1.0), Result("new", "c", OURS, 1.0)], tmp_path)
    write([Result("new", "c", OURS, 5.0)], tmp_path)
    report = (tmp_path / "RESULTS.md").read_text()
    assert "## old" in report
    assert "| c | ms | 5 |" in report
