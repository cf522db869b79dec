"""The laws of the turns to poll."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.sync.connection.poll_turns import Turns

steps = st.lists(st.tuples(st.sampled_from(("ask", "done")), st.integers(0, 9)), max_size=80)


@given(steps, st.integers(1, 4))
def test_so_many_at_once_and_who_has_waited_longest_first(
    story: list[tuple[str, int]], at_once: int
) -> None:
    turns = Turns[int](at_once)
    waiting: list[int] = []
    polling: set[int] = set()
    for step, who in story:
        if step == "ask":
            if who not in (*waiting, *polling):
                waiting.append(who)
            granted = turns.ask(who)
        else:
            waiting = [one for one in waiting if one != who]
            polling.discard(who)
            granted = turns.done(who)
        assert granted == waiting[: len(granted)]
        waiting = waiting[len(granted) :]
        polling.update(granted)
        assert len(polling) <= at_once
        assert not waiting or len(polling) == at_once  # nobody waits while there is a place
