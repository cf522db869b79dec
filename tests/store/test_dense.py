"""A vector in two buffers equals a list for any removals, and moves the smaller part of itself."""

from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from notebook_rt.store.dense import Dense, Positions, Step


class Vector:
    """A ``Dense`` and a list, side by side."""

    def __init__(self, size: int, dtype: str) -> None:
        self.dense = Dense(np.arange(size).astype(dtype))
        self.list = list(range(size))
        self.next = size

    def step(
        self, gone: Positions, written: Positions, added: int, at: Positions | None = None
    ) -> None:
        step = Step(len(self.list), gone, added, at)
        values = range(self.next, self.next + len(written) + added)
        self.next += len(values)
        for place, value in zip(written.tolist(), values, strict=False):
            self.list[place] = value
        for place in reversed(gone.tolist()):
            del self.list[place]
        if at is None:
            self.list += values[len(written) :]
        else:  # from the last on, so that no place ahead of it moves
            coming = [*zip(at.tolist(), values[len(written) :], strict=True)]
            for ahead, value in reversed(coming):
                self.list.insert(ahead, value)
        of = self.dense.peek().dtype
        new, more = np.array(values[: len(written)], of), np.array(values[len(written) :], of)
        self.dense.advance(step, written, new, more)


def address(view: NDArray[np.int64]) -> int:
    found: int = view.__array_interface__["data"][0]
    return found


@pytest.mark.parametrize("dtype", ["int64", "float64", "object"])
@pytest.mark.parametrize("seed", range(12))
def test_it_equals_a_list_wherever_rows_leave_and_a_view_never_changes(
    dtype: str, seed: int
) -> None:
    chance = random.Random(seed)
    vector = Vector(20_000, dtype)
    held: list[tuple[NDArray[np.int64], list[int]]] = []
    for _ in range(60):
        size = len(vector.list)
        first, last = sorted(chance.sample(range(size + 1), 2))
        narrow = chance.choice([(0, 40), (size - 40, size), (first, last)])
        count = min(chance.choice([0, 1, 3, 8, 20]), narrow[1] - narrow[0])
        gone = np.array(sorted(chance.sample(range(*narrow), count)), "int64")
        places = sorted({*chance.sample(range(size), 10)} - {*gone.tolist()})
        vector.step(gone, np.array(places, "int64"), chance.choice([0, 1, 5, 900]))
        assert vector.dense.peek().tolist() == vector.list
        if chance.random() < 0.3:
            held.append((vector.dense.view(), list(vector.list)))
        if held and chance.random() < 0.3:
            del held[chance.randrange(len(held))]
    assert all(view.tolist() == before for view, before in held)


@pytest.mark.parametrize("dtype", ["int64", "object"])
@pytest.mark.parametrize("seed", range(12))
def test_it_equals_a_list_wherever_rows_come(dtype: str, seed: int) -> None:
    chance = random.Random(seed)
    vector = Vector(40_000, dtype)
    held: list[tuple[NDArray[np.int64], list[int]]] = []
    for _ in range(30):
        size = len(vector.list)
        gone = np.array(sorted(chance.sample(range(size), chance.choice([0, 0, 1, 8]))), "int64")
        places = sorted({*chance.sample(range(size), 10)} - {*gone.tolist()})
        kept = size - len(gone)
        added = chance.choice([0, 1, 3, 8, 60])
        near = chance.choice([(0, 3), (kept - 3, kept), (0, kept)])
        at = np.array(sorted(chance.randint(*near) for _ in range(added)), "int64")
        ends = chance.random() < 0.2 or not added
        vector.step(gone, np.array(places, "int64"), added, None if ends else at)
        assert vector.dense.peek().tolist() == vector.list
        if chance.random() < 0.2:
            held.append((vector.dense.view(), list(vector.list)))
    assert all(view.tolist() == before for view, before in held)


def test_a_window_that_slides_moves_no_rows() -> None:
    vector, none = Vector(100_000, "int64"), np.empty(0, "int64")
    for _ in range(3):
        vector.step(np.arange(10), none, 10)
    was = address(vector.dense.view())
    vector.step(np.arange(10), none, 10)
    vector.step(np.arange(10), none, 10)
    assert address(vector.dense.view()) == was + 20 * 8  # the same buffer, two steps on
    assert vector.dense.peek().tolist() == vector.list


def test_a_window_that_slides_forever_stays_in_its_two_buffers() -> None:
    vector, none = Vector(5000, "int64"), np.empty(0, "int64")
    for _ in range(3):
        vector.step(np.arange(2), none, 2)
    size = vector.dense.nbytes
    for _ in range(1000):
        vector.step(np.arange(2), none, 2)
    assert vector.dense.nbytes == size
    assert vector.dense.peek().tolist() == vector.list
