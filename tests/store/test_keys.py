"""Keys identify rows like in a dict, wherever they are stored."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.store import keys as module
from notebook_rt.store.dense import Positions
from notebook_rt.store.keys import Keys
from tests.laws import examples

INTEGERS = st.integers(-9, 30) | st.sampled_from([-(2**63), 2**63 - 1, 2**63, 2**70, -(2**70)])
EQUALS = st.sampled_from(
    [True, 1.0, 1.5, Decimal(2), Decimal("NaN"), float("inf"), np.int64(3), None, "4", ("5", 6)]
)
KEYS = {
    "integers": st.integers(-9, 30),
    "integers of any size": INTEGERS,
    "anything": INTEGERS | EQUALS,
    "text": st.sampled_from("abcdefghijkl"),
}
WORDS = st.sampled_from(["come", "come", "come", "leave", "settle", "settle", "renumber"])


@pytest.mark.parametrize("of", KEYS)
@given(data=st.data())
@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_keys_are_found_counted_and_ordered_as_in_a_dict(
    monkeypatch: pytest.MonkeyPatch, of: str, data: st.DataObject
) -> None:
    monkeypatch.setattr(module, "_RECENT", 3)
    monkeypatch.setattr(module, "_FEW", 2)
    some = st.lists(KEYS[of], max_size=8)
    asked = st.lists(KEYS[of] | EQUALS, max_size=8)
    first = [*dict.fromkeys(data.draw(some))]
    given = np.array(first, "int64") if of == "integers" and data.draw(st.booleans()) else first
    numbers = np.arange(len(first)) * 2
    keys = Keys.later(len(first), lambda: given, numbers)
    model = dict(zip(first, numbers.tolist(), strict=True))
    following = 2 * len(first)
    assert len(keys) == len(model)
    for word in data.draw(st.lists(WORDS, max_size=25)):
        if word == "come":
            new = [key for key in dict.fromkeys(data.draw(some)) if key not in model]
            coming = dict(zip(new, range(following, following + 2 * len(new), 2), strict=True))
            following += 2 * len(new)
            keys.update(coming.items())
            model.update(coming)
        elif word == "leave":
            gone = [key for key in dict.fromkeys(data.draw(some)) if key in model]
            keys.remove(gone)
            for key in gone:
                del model[key]
        elif word == "settle":
            keys.compact()
        else:
            here = np.array(sorted(model.values()), "int64")

            def anew(numbers: Positions, here: Positions = here) -> Positions:
                return np.where(numbers < 0, -1, np.searchsorted(here, numbers))

            keys.renumber(anew)
            model = dict(zip(model, range(len(model)), strict=True))
            following = len(model)
        wanted = data.draw(asked)
        assert keys.numbers(wanted) == {key: model[key] for key in wanted if key in model}
        assert keys.isdisjoint(wanted) == model.keys().isdisjoint(wanted)
        whole = all(type(key) is int and -(2**63) <= key < 2**63 for key in model)
        integers = keys.integers()
        assert (None if integers is None else integers.tolist()) == (
            sorted(model) if whole else None
        )
        for key in wanted:
            assert keys.get(key) == model.get(key)
            assert (key in keys) == (key in model)
        assert len(keys) == len(model)
        assert keys.in_order() == list(model)
        assert list(keys.as_dict().items()) == list(model.items())


def test_many_integers_take_a_fifth_of_a_dict_and_text_what_it_takes() -> None:
    count = 200_000
    for made, most in (lambda number: 3 * number, 0.2), (str, 1.0):
        numbers = {made(number): number for number in range(count)}
        keys, dictionary = Keys(), Keys()
        dictionary.update(numbers.items())
        keys.update(numbers.items())
        keys.compact()
        assert keys.nbytes <= most * dictionary.nbytes
        assert keys.get(made(777)) == 777


def test_keys_that_left_are_forgotten_when_they_are_most() -> None:
    keys = Keys()
    keys.update((number, number) for number in range(200_000))
    keys.compact()
    keys.remove(range(1, 200_000))
    keys.compact()
    assert (keys.in_order(), keys.nbytes < 10_000) == ([0], True)


@pytest.mark.parametrize("given", [np.array([3, 1, 3]), ["a", "b", "a"]])
def test_equal_keys_are_refused_when_they_are_collected(given: Any) -> None:
    keys = Keys.later(3, lambda: given)
    assert len(keys) == 3
    with pytest.raises(ValueError, match="two rows have one key"):
        keys.collect()
