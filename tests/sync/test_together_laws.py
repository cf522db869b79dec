"""The laws of applying a transaction over several tables as one, with any losses."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Set as AbstractSet
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.sync.table.broadcast import HOLE
from notebook_rt.sync.table.broadcast_answers import topic_digest
from notebook_rt.sync.table.together import PATIENCE, PATIENCE_MAX, Sent, Together
from tests.laws import examples

many = settings(max_examples=examples(400), deadline=None, suppress_health_check=list(HealthCheck))
TOPICS = ("a", "b", "c", "d")

transactions = st.lists(
    st.tuples(
        st.sampled_from((0.0, 0.0, 0.001, 0.05, 0.3)),
        st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 3), min_size=1),
    ),
    max_size=25,
)
"""Each transaction: how long after the one before, and how many messages in which topics."""


VALUES = {"a", "b"}
"""Topics of a value, which come first and name the others, and are named by no topic of a whole table."""


def named(topic: str, parts: AbstractSet[str]) -> set[str]:
    """What a message of ``topic`` says of its transaction."""
    names = set(parts) if topic in VALUES else parts - VALUES
    return names if len(names) > 1 else set()


def sent_of(x: int, parts: dict[str, int]) -> list[Sent]:
    """The messages of one transaction, as the database sends them."""
    digests = {topic: sorted(map(topic_digest, named(topic, parts.keys()))) for topic in parts}
    return [
        Sent(topic, {"x": str(x), "part": part, "last": part == count, "topics": digests[topic]})
        for topic, count in sorted(parts.items(), key=lambda one: (one[0] not in VALUES, one[0]))
        for part in range(1, count + 1)
    ]


def run(
    arrivals: list[tuple[float, Sent]], followed: set[str], lost: set[str] | None = None
) -> list[tuple[float, list[Sent]]]:
    """What comes out of it and when, given what comes in; ``lost`` takes the topics that are to be read."""
    together, out = Together(), []
    queue = [(at, place, sent) for place, (at, sent) in enumerate(arrivals)]
    heapq.heapify(queue)
    now = 0.0
    while queue or together.due is not None:
        due = together.due
        if queue and (due is None or queue[0][0] <= due):
            now, _, sent = heapq.heappop(queue)
            taken = together.add(sent, followed, now)
        else:
            assert due is not None
            now = max(now, due)
            taken = together.take(now)
        if lost is not None:
            lost |= together.take_lost()
        if taken:
            out.append((now, list(taken)))
    return out


def played(
    story: list[Any], followed: set[str], seed: int, loss: float, doubled: float, late: float
) -> tuple[list[tuple[float, Sent]], Counter[int]]:
    """What comes when, and how much of each transaction was lost or came late or twice."""
    chance, now = random.Random(seed), 0.0
    arrivals: list[tuple[float, Sent]] = []
    harmed: Counter[int] = Counter()
    for x, (pause, parts) in enumerate(story):
        now += pause
        for sent in sent_of(x, parts):
            if sent.topic not in followed:
                continue
            times = 1 + (chance.random() < doubled) - (chance.random() < loss)
            harmed[x] += times != 1
            arrivals += [(now + chance.uniform(0, late), sent)] * times
            now += 0.001
    return sorted(arrivals, key=lambda one: one[0]), harmed


followings = st.sets(st.sampled_from(TOPICS), min_size=1)
seeds = st.integers(0, 2**32)


@many
@given(transactions, followings, seeds, st.sampled_from((0.0, 0.3, 1.0)))
def test_what_is_whole_is_applied_as_one(
    story: list[Any], followed: set[str], seed: int, loss: float
) -> None:
    """In the order of commits, whatever was lost of others."""
    arrivals, harmed = played(story, followed, seed, loss, 0.0, 0.0)
    batches: dict[int, set[int]] = {}
    for number, (_, batch) in enumerate(run(arrivals, followed)):
        for sent in batch:
            batches.setdefault(int(sent.payload["x"]), set()).add(number)
    for x, (_, parts) in enumerate(story):
        if not harmed[x] and len(followed & parts.keys()) > 1:
            assert len(batches[x]) == 1


@many
@given(
    transactions,
    followings,
    seeds,
    st.sampled_from((0.0, 0.3)),
    st.sampled_from((0.0, 0.3)),
    st.sampled_from((0.0, 0.002, 0.5)),
)
def test_nothing_is_held_back_for_long_nor_lost_nor_out_of_order(
    story: list[Any], followed: set[str], seed: int, loss: float, doubled: float, late: float
) -> None:
    """Less long than it takes until a number that is missing is a loss."""
    arrivals, _ = played(story, followed, seed, loss, doubled, late)
    out = [(at, sent) for at, batch in run(arrivals, followed) for sent in batch]
    assert [sent for _, sent in out] == [sent for _, sent in arrivals]
    longest = PATIENCE if not late else PATIENCE_MAX
    for (came, _), (at, _) in zip(arrivals, out, strict=True):
        assert at - came <= longest + 1e-9
    assert PATIENCE_MAX < HOLE


@many
@given(transactions, followings, seeds, st.sampled_from((0.0, 0.3, 1.0)))
def test_where_a_part_is_lost_the_others_say_so(
    story: list[Any], followed: set[str], seed: int, loss: float
) -> None:
    """The log of that table is read at once, and of no table that has all of its parts."""
    arrivals, _ = played(story, followed, seed, loss, 0.0, 0.0)
    came = Counter((int(sent.payload["x"]), sent.topic) for _, sent in arrivals)
    lost: set[str] = set()
    run(arrivals, followed, lost)
    expected = set()
    for x, (_, parts) in enumerate(story):
        shared = followed & parts.keys()
        heard = [topic for topic in shared if came[x, topic]]
        told = {name for topic in heard for name in named(topic, parts.keys())} & shared
        if len(told) > 1:
            expected |= {topic for topic in told if came[x, topic] < parts[topic]}
    assert lost == expected


@many
@given(transactions, seeds)
def test_what_is_of_one_table_waits_for_nothing(story: list[Any], seed: int) -> None:
    arrivals, _ = played(story, {"a"}, seed, 0.3, 0.3, 0.002)
    assert [at for at, _ in run(arrivals, {"a"})] == [at for at, _ in arrivals]


def test_a_message_that_cannot_be_read_passes() -> None:
    together = Together()
    for payload in (None, [], {"topics": ["x"]}, {"topics": 7, "x": []}):
        assert together.add(Sent("a", payload), {"a", "b"}, 0.0) == (Sent("a", payload),)
