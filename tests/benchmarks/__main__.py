"""``python -m tests.benchmarks [--quick] [--out DIRECTORY] [names]``: run, print, write the report.

A benchmark is a module ``bench_<name>.py`` beside this one with ``run(quick) -> list[Result]``.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from tests.benchmarks.harness import Result, markdown, write

HERE = Path(__file__).parent


def names() -> list[str]:
    """Every benchmark there is."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def run(chosen: list[str], quick: bool) -> list[Result]:
    """Run the benchmarks named, quick ones with sizes that only show that they work."""
    results: list[Result] = []
    for name in chosen:
        print(f"{name} …", flush=True)
        results += import_module(f"tests.benchmarks.bench_{name}").run(quick)
    return results


def main() -> None:
    """Parse the command line and do as it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(names())}; all if none is given")
    parser.add_argument("--quick", action="store_true", help="small sizes; nothing is written")
    parser.add_argument("--out", type=Path, help="where RESULTS.md and RESULTS.json go")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names()))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    results = run(arguments.names or names(), arguments.quick)
    print(markdown(results))
    if arguments.out or not arguments.quick:
        write(results, arguments.out or HERE)


if __name__ == "__main__":
    main()
