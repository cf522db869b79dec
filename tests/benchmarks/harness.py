"""The result of a benchmark, its timing, and the report.

In goes a callable a side, out comes the median of its repeats. Both sides of a comparison run in
one process and in turns, so that a slow minute of the machine slows both: what must hold is the
ratio, not the milliseconds (docs/design/performance.md).
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

OURS = "notebook_rt"
PEERS = ("pandas", "polars", "duckdb", "pyarrow", "perspective-python", "streamz", "numpy")


@dataclass(frozen=True, slots=True)
class Result:
    """One number: what ``side`` needed for ``case`` of ``suite``, the median of its runs."""

    suite: str
    case: str
    side: str
    median: float
    unit: str = "ms"
    lower_is_better: bool = True
    goal: float | None = None
    """For our side: how many times better than the best peer it means to be."""

    note: str = ""


def timed(run: Callable[[], object]) -> float:
    """Milliseconds that one call needs."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def in_turns(
    sides: Mapping[str, Callable[[], object]], repeats: int, budget: float = 20.0
) -> dict[str, float]:
    """Median milliseconds of each side, the sides taking turns.

    Parameters
    ----------
    repeats : int
        Runs a side.
    budget : float
        Seconds a side may use in all; a slow side runs less often, at least once.
    """
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            if not spent[name] or sum(spent[name]) < budget * 1e3:
                if repeats > 1:  # a single run shows that it works, and collecting takes longer
                    gc.collect()
                spent[name].append(timed(run))
    return {name: statistics.median(times) for name, times in spent.items()}


def ratio(ours: Result, peers: Sequence[Result]) -> float | None:
    """How many times better ``ours`` is than the best of ``peers``; under 1 is worse."""
    if not peers or not ours.median:
        return None
    if ours.lower_is_better:
        return min(peer.median for peer in peers) / ours.median
    return ours.median / max(peer.median for peer in peers)


def is_ours(result: Result) -> bool:
    """Whether the result is of this package, in one of its variants."""
    return result.side.startswith(OURS)


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    versions = {}
    for package in PEERS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **versions,
    }


def write(results: Sequence[Result], directory: Path) -> None:
    """Write ``RESULTS.json`` and ``RESULTS.md``; cases that did not run keep what they had."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "RESULTS.json"
    kept: list[Result] = []
    if path.exists():
        ran = {(result.suite, result.case) for result in results}
        stored = [Result(**entry) for entry in json.loads(path.read_text())["results"]]
        kept = [result for result in stored if (result.suite, result.case) not in ran]
    everything = sorted([*kept, *results], key=lambda result: result.suite)
    report: dict[str, Any] = {
        "machine": machine(),
        "results": [asdict(result) for result in everything],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
    (directory / "RESULTS.md").write_text(markdown(everything))


def markdown(results: Sequence[Result]) -> str:
    """The report: a table a suite, a row a case, a column a side, our ratio to the best peer."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m tests.benchmarks`. Medians; both sides of a row ran in one process,",
        "in turns. The ratio is the best peer's number to ours: over 1 is better than every peer.",
        "",
        ", ".join(f"{name} {value}" for name, value in machine().items()),
    ]
    for suite in dict.fromkeys(result.suite for result in results):
        lines += ["", f"## {suite}", "", *_table([r for r in results if r.suite == suite])]
    return "\n".join(lines) + "\n"


def _table(results: Sequence[Result]) -> list[str]:
    sides = list(dict.fromkeys(result.side for result in results))
    sides.sort(key=lambda side: not side.startswith(OURS))
    lines = [
        "| " + " | ".join(["", "unit", *sides, "ratio", "goal"]) + " |",
        "| --- | --- |" + " ---: |" * (len(sides) + 2),
    ]
    notes = []
    for case in dict.fromkeys(result.case for result in results):
        row = {result.side: result for result in results if result.case == case}
        peers = [result for result in row.values() if not is_ours(result)]
        mine = [result for result in row.values() if is_ours(result)]
        ratios = [_number(ratio(result, peers)) for result in mine]
        goals = [_number(result.goal) for result in mine]
        cells = [_number(row[side].median) if side in row else "" for side in sides]
        unit = next(iter(row.values())).unit
        lines.append(
            "| " + " | ".join([case, unit, *cells, " / ".join(ratios), " / ".join(goals)]) + " |"
        )
        notes += [f"- {case}, {r.side}: {r.note}" for r in row.values() if r.note]
    return [*lines, *([""] if notes else []), *notes]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
