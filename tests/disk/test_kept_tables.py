"""A table stored and read by another kernel is the same table: all laws of a table hold."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule, run_state_machine_as_test

from notebook_rt.disk.kept import Facts
from notebook_rt.disk.shelf import Shelf
from notebook_rt.sync.table.memory import Memory
from tests.disk.model import ME, kept_of, restored
from tests.laws import directory
from tests.store.test_laws import TableLaws


class KeptTableLaws(TableLaws):
    """The laws of a table, with kernels that end in between."""

    @rule()
    def begin_again_from_disk(self) -> None:
        with directory() as name:
            shelf = Shelf(Path(name) / "mine" / "t.arrow", ME)
            assert shelf.take()
            shelf.write(kept_of(self.table, Facts(0.0, Memory()), {}))
            self.table, _ = restored(shelf.read(), self.table.dtype_backend)
            shelf.close()


def test_the_laws_of_a_table_hold_over_the_ends_of_kernels() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis has no types here
        KeptTableLaws,
        settings=settings(
            max_examples=25,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
