"""``when``: each row that starts or stops to match is reported once, under any events."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.sync.watch import Turn, Watch

KEYS = st.integers(0, 3)
rows = st.dictionaries(KEYS, st.booleans())
begins = st.fixed_dictionaries({"a": rows, "b": rows})
"""What each login's table holds before anybody looks."""
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), KEYS, st.sampled_from((None, False, True))),
        st.tuples(st.just("write"), KEYS, st.sampled_from((None, False, True))),
        st.tuples(st.just("gap"), st.booleans()),
        st.tuples(st.just("restart"), st.just(None)),
        st.tuples(st.just("login"), st.sampled_from("ab")),
        st.tuples(st.just("pause"), st.sampled_from((0.5, 1.0, 3.0))),
    ),
    max_size=40,
)


class Kernel:
    """Watches one login's table after the other; what it tells is remembered as it is told."""

    def __init__(self, tables: dict[str, dict[int, bool]], at_once: bool, debounce: float) -> None:
        self.at_once, self.debounce = at_once, debounce
        self.now = 0.0
        self.tables = {login: dict(table) for login, table in tables.items()}
        self.disk: dict[str, dict[Any, bool]] = {}
        self.told: dict[str, list[tuple[str, int]]] = {"a": [], "b": []}
        self.watches: dict[str, Watch] = {}
        self.login = "a"
        self.hears = True

    def begin(self) -> None:
        """Read the rows as the present login: at first, after a gap, a login or a restart."""
        remembered = self.disk.get(self.login)
        if self.login not in self.watches:
            self.watches[self.login] = Watch(
                remembered, at_once=self.at_once, debounce=self.debounce
            )
            self.disk.setdefault(self.login, {})
        self.hears = True
        watch, table = self.watches[self.login], self.tables[self.login]
        matching = {key: {"id": key} for key, matches in table.items() if matches}
        others = {key: {"id": key} for key in watch.keys if table.get(key) is False}
        self.tell(watch.whole(matching, others, self.now))

    def write(self, key: int, matches: bool | None) -> None:
        """A row comes, changes or goes (None)."""
        table = self.tables[self.login]
        table.pop(key, None)
        if matches is not None:
            table[key] = matches
        if self.hears:
            row = {"id": key}
            self.tell(self.watches[self.login].change(key, row, matches is True, self.now))

    def pause(self, seconds: float) -> None:
        self.now += seconds
        if self.hears:
            self.tell(self.watches[self.login].due(self.now))

    def tell(self, turns: list[Turn]) -> None:
        disk = self.disk[self.login]
        for turn in turns:
            if turn.kind == "enter":
                assert turn.key not in disk
                disk[turn.key] = turn.told
            else:
                assert disk.pop(turn.key) == turn.told
            if turn.told:
                self.told[self.login].append((turn.kind, turn.key))  # type: ignore[arg-type]  # an int


def play(kernel: Kernel, one: Any) -> None:
    """A step of a story."""
    step, *given_ = one
    if step == "write":
        kernel.write(*given_)
    elif step == "pause":
        kernel.pause(*given_)
    elif step == "gap":  # what happens from now on is not heard, until all is read again
        kernel.hears = False
        if given_[0]:
            kernel.begin()
    else:
        if step == "login":
            kernel.login = given_[0]
        else:
            kernel.watches.clear()
        kernel.begin()


@given(begins, steps, st.booleans(), st.sampled_from((0.0, 1.0)))
def test_each_row_and_state_is_reported_once(
    tables: dict[str, dict[int, bool]], story: list[Any], at_once: bool, debounce: float
) -> None:
    """Never an enter or a leave twice in a row, or a leave without one; none is missing in the end."""
    kernel = Kernel(tables, at_once, debounce)
    kernel.begin()
    for one in story:
        play(kernel, one)
    for login in "ab":
        kernel.login = login
        first = login not in kernel.disk
        kernel.begin()
        kernel.pause(2.0)
        told = kernel.told[login]
        for key in range(4):
            kinds = [kind for kind, other in told if other == key]
            assert kinds == ["enter", "leave"] * (len(kinds) // 2) + ["enter"] * (len(kinds) % 2)
            entered = bool(len(kinds) % 2)
            matches = kernel.tables[login].get(key) is True
            silent = kernel.disk[login].get(key) is False
            assert matches == (entered or silent)
            assert not (entered and silent)
            if at_once:
                assert not silent
        if first and not at_once:
            assert not told


@given(begins, steps, st.booleans())
def test_without_a_debounce_each_change_that_is_seen_is_told_at_once(
    tables: dict[str, dict[int, bool]], story: list[Any], at_once: bool
) -> None:
    """The turns of each login are those between the states that it has seen, one after the other."""
    kernel = Kernel(tables, at_once, 0.0)
    seen: dict[str, dict[int, bool]] = {}
    expected: dict[str, list[tuple[str, int]]] = {"a": [], "b": []}
    silent: dict[str, set[int]] = {"a": set(), "b": set()}

    def look() -> None:
        if not kernel.hears:
            return
        login, now = kernel.login, dict(kernel.tables[kernel.login])
        first = login not in seen
        before = seen.get(login, {})
        for key in range(4):
            was, matches = before.get(key) is True, now.get(key) is True
            if matches and not was:
                if first and not at_once:
                    silent[login].add(key)
                else:
                    expected[login].append(("enter", key))
            elif was and not matches:
                if key in silent[login]:
                    silent[login].remove(key)
                else:
                    expected[login].append(("leave", key))
        seen[login] = now

    kernel.begin()
    look()
    for one in story:
        play(kernel, one)
        look()
        for login in "ab":
            assert sorted(kernel.told[login]) == sorted(expected[login])


def test_a_row_that_goes_on_matching_for_long_enough_is_reported_once() -> None:
    watch = Watch({}, debounce=5.0)
    assert watch.change(1, {"n": 1}, True, 0.0) == []
    assert watch.change(1, {"n": 2}, True, 3.0) == []
    assert watch.next_due == 5.0
    assert watch.due(4.9) == []
    assert watch.due(5.0) == [Turn("enter", 1, {"n": 2}, True)]
    assert watch.change(1, {"n": 0}, False, 6.0) == []
    assert watch.change(1, {"n": 3}, True, 7.0) == []
    assert watch.next_due is None
    assert watch.due(60.0) == []
