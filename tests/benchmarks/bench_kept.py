"""A table stored on disk by an earlier kernel, in a fresh process without a network: the time to its frame.

Beside reading the same rows from Parquet. Each run is a process of its own, the files in the system's
cache; ``after import`` counts from ``connect`` (or the reader's call) on, ``with import`` from before the
first import.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from notebook_rt.disk.kept import Facts, Identity, Kept
from notebook_rt.model.spec import TableSpec
from notebook_rt.net.credentials import Credentials
from notebook_rt.store.table import Table
from notebook_rt.sync.table.memory import Memory
from tests.benchmarks.harness import OURS, Result
from tests.benchmarks.workload import rows, table

NOBODY, KEY = "http://127.0.0.1:9", "sb_publishable_x"
SIDES = {
    OURS: (
        "import notebook_rt as nrt, notebook_rt.session",
        f"nrt.connect('{NOBODY}', '{KEY}').table('prices', keep=True).df",
    ),
    "pandas.read_parquet": (
        "import pandas, pyarrow.parquet",
        "pandas.read_parquet('prices.parquet')",
    ),
    "polars, to pandas": (
        "import pandas, polars",
        "polars.read_parquet('prices.parquet').to_pandas()",
    ),
    "duckdb": ("import pandas, duckdb", "duckdb.sql(\"from 'prices.parquet'\").df()"),
}
SCRIPT = """
import time, json
began = time.perf_counter()
{}
imported = time.perf_counter()
found = {}
done = time.perf_counter()
print(json.dumps([1e3 * (done - imported), 1e3 * (done - began), len(found)]), flush=True)
import os
os._exit(0)
"""


def keep(made: Table, directory: Path) -> None:
    """Write the table into a cache, as a kernel does that ends, and as Parquet."""
    from notebook_rt.disk import cache

    os.environ["XDG_CACHE_HOME"] = str(directory)
    shelf = cache.shelf(Identity.of(NOBODY, Credentials(KEY).owner, TableSpec("prices")))
    shelf.take()
    versions = np.arange(len(made))
    names = made.schema.names
    shelf.write(Kept(made.schema, names, made.parts(), versions, Facts(1.7e9, Memory())))
    shelf.close()
    made.snapshot().to_parquet(directory / "prices.parquet")


def run(quick: bool) -> list[Result]:
    """A million rows of ten columns."""
    count = 1_000 if quick else 1_000_000
    before = os.environ.get("XDG_CACHE_HOME")
    with TemporaryDirectory() as name:
        try:
            keep(table(rows(count)), Path(name))
            spent: dict[str, list[list[float]]] = {side: [] for side in SIDES}
            for _ in range(1 if quick else 5):
                for side, (imported, read) in SIDES.items():
                    done = subprocess.run(
                        [sys.executable, "-c", SCRIPT.format(imported, read)],
                        cwd=name,
                        env={**os.environ, "PYTHONPATH": os.getcwd()},
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                    *times, length = json.loads(done.stdout)
                    assert length == count
                    spent[side].append(times)
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before
    return [
        Result("a kept table, in a fresh process", f"{count:,} rows, {case}", side, median)
        for at, case in enumerate(("after import", "with import"))
        for side, times in spent.items()
        for median in [statistics.median(one[at] for one in times)]
    ]
