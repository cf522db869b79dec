"""The laws of retrying a table in error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.errors import AuthError, MissingTableError, ProtocolError
from notebook_rt.options import Options
from notebook_rt.sync.table.backoff import LONGEST, Backoff

GONE = MissingTableError("public", "t")


@given(
    st.floats(0.01, 30.0),
    st.floats(0.0, 1.0),
    st.lists(
        st.tuples(st.floats(0.0, 1.0), st.none() | st.floats(0.0, LONGEST - 1.0)), max_size=40
    ),
)
def test_the_pause_grows_to_a_minute_though_the_table_comes_for_a_moment(
    base: float, jitter: float, story: list[tuple[float, float | None]]
) -> None:
    """``story``: the jitter's draw, and for how long the table is shown before it fails."""
    draws = iter([draw for draw, _ in story])
    backoff, now, least = (
        Backoff(Options(backoff_base=base, jitter=jitter), lambda: next(draws)),
        0.0,
        0.0,
    )
    for number, (_, lasted) in enumerate(story):
        if lasted is not None:
            backoff.shown(now)
            now += lasted
            backoff.shown(now)  # other columns
        pause = backoff.failed(GONE, now)
        assert pause is not None
        assert least <= pause <= LONGEST * (1 + jitter)
        least = min(base * 2.0 ** (number + 1), LONGEST)
        assert pause >= least
        now += pause


def test_a_table_that_was_shown_for_long_is_asked_for_soon() -> None:
    backoff = Backoff(Options(), lambda: 0.0)
    pauses = [backoff.failed(GONE, 0.0) for _ in range(7)]
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    backoff.shown(100.0)
    assert backoff.failed(GONE, 100.0 + LONGEST) == 2.0


@pytest.mark.parametrize("error", [AuthError("t", "http://x"), ProtocolError("?"), ValueError()])
def test_what_no_asking_fixes_is_not_asked_for(error: Exception) -> None:
    assert Backoff(Options(), lambda: 0.0).failed(error, 0.0) is None
