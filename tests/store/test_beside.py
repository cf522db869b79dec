"""Work on several threads is finished when the call returns, or its error is raised."""

from __future__ import annotations

import threading

import pytest

from notebook_rt.store.parallel import in_parallel
from tests.waiting import scaled


def test_all_work_is_done_each_elsewhere_on_its_own_thread() -> None:
    together = threading.Barrier(3)
    seen = set()

    def work() -> None:
        together.wait(timeout=scaled(60))
        seen.add(threading.current_thread())

    in_parallel([work, work], work)
    assert len(seen) == 3
    assert threading.current_thread() in seen


@pytest.mark.parametrize("elsewhere", [True, False])
def test_what_one_raises_reaches_the_caller_when_all_are_done(elsewhere: bool) -> None:
    done = []

    def fail() -> None:
        raise OSError("no memory")

    works = [fail, lambda: done.append(1), lambda: done.append(2)]
    here = works.pop(1 if elsewhere else 0)
    with pytest.raises(OSError, match="no memory"):
        in_parallel(works, here)
    assert sorted(done) == [1, 2]
