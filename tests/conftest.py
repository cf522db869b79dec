"""What every test may use: one local stack a run, its SQL, and how hard hypothesis tries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.realtime.options import RealtimeOptions

hypothesis.settings.register_profile("ci", max_examples=100, deadline=None)
hypothesis.settings.register_profile("nightly", max_examples=5_000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

QUICK = StackOptions(realtime=RealtimeOptions(connect_error_delay=0.05, join_error_delay=0.05))
"""The real server's answers, without the waits that it adds to refusals on purpose."""


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """One local stack for the whole run. Whoever makes a table drops it, or gives it a new name."""
    with start(tmp_path_factory.mktemp("stack"), options=QUICK) as running:
        yield running


@pytest.fixture
def sql(stack: LocalStack) -> Callable[..., list[tuple[Any, ...]]]:
    """`stack.sql`: a statement and its parameters, as superuser, committed at once."""
    return stack.sql
