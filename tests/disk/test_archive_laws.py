"""The laws of a past on disk: a moment that counts as known is correct, however kernels end."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.disk import cache
from notebook_rt.disk.archive import Archive
from notebook_rt.disk.errors import RefusedFileError
from notebook_rt.disk.kept import Identity
from notebook_rt.model.rows import Delete, Upsert
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Schema, equal
from notebook_rt.store.table import Table
from notebook_rt.sync.history.past import Beginning, ForgottenMomentError, Past, View
from tests.disk.model import ME, written
from tests.laws import directory, examples
from tests.sync.test_history_laws import (
    ANOTHER,
    DOUBLE,
    SECOND,
    SINGLE,
    TEXT,
    Oracle,
    batches,
    ops_of,
    play,
)

some = settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
MOST = 1 << 30
SPAN = 10**9 * SECOND
WHOLE = View()


def whole(carried: Any) -> View:
    return WHOLE


class Kernels:
    """Kernels, one after another, that record one table and write its past; and who keeps every version."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path = path
        self.schema = schema
        self.oracle = Oracle()
        self.rows: dict[Any, dict[str, Any]] = {}
        self.now = 1_000 * SECOND
        self.moments = {self.now}
        self.wrote_from = 0
        """From when on this kernel has written what it recorded."""
        self.proven = 0
        """What the server had then is here: no later word is of a time before."""
        self.past = Past(SPAN, MOST)
        self.archive = Archive(path, ME)
        assert self.archive.take()

    @property
    def last(self) -> int:
        return self.past.last or 0

    def begin(self) -> None:
        """The whole table is read."""
        table = Table(self.schema)
        table.apply([Upsert(key, row) for key, row in self.rows.items()])
        self.past.begin(self.schema, table.parts(), self.now, WHOLE, "snapshot")
        self.proven = self.now + 1
        self.keep(self.past._eras[-1].record.began)

    def keep(self, when: int) -> None:
        self.oracle.keep(when, self.schema, self.rows)
        self.moments |= {when - 1, when, when + 1}

    def happens(self, ops: list[Any], when: int) -> None:
        """The server's rows change."""
        for op in ops:
            play(self.rows, op, self.schema)
        self.keep(when)

    def hear(self, story: list[Any] | None, ago: float | None, cause: str) -> None:
        """Some of it is told."""
        at = None if ago is None else max(self.proven, self.now - round(ago * SECOND)) / 1e6
        ops: list[Any] = (
            [Delete(key) for key in self.rows] if story is None else ops_of(story, at, self.schema)
        )
        for op in ops:
            self.past.add([op], cause, self.now)
            self.happens([op], self.last)

    def write(self, *, roll: bool = False) -> None:
        """As `runtime/archiving.py` does."""
        if not self.past.writes:
            self.past.start_writing()
            self.wrote_from = self.past._latest
        for one in self.past.take(roll=roll):
            if isinstance(one, Beginning):
                self.archive.begin(one, MOST)
            else:
                self.archive.append(one)

    def end(self) -> None:
        """In peace."""
        self.past.lose("it ended")
        self.write()
        self.die()

    def die(self) -> None:
        self.archive.close()

    def start(self, missed: list[Any], *, live: bool, write: bool) -> list[str]:
        """Another kernel; gives which files it refused."""
        self.now = max(self.now, self.last) + SECOND
        self.happens(ops_of(missed, None, self.schema), self.now)
        self.now += SECOND
        self.archive = Archive(self.path, ME)
        found = self.archive.read(Past(SPAN, MOST), whole)
        self.past = Past(SPAN, MOST)
        self.past.prepend(found.past)
        self.begin()
        if live:
            self.past.regain(self.now)
        else:
            self.past.lose("not yet live")
        assert self.archive.take()
        if write:
            self.write()
        return found.refused

    def is_true(self) -> None:
        """Wherever it says that it is known, it is."""
        began = self.past.began
        assert began is not None
        for when in sorted(self.moments | {self.now + SECOND}):
            if when < began:
                with pytest.raises(ForgottenMomentError):
                    self.past.at(when)
                continue
            moment = self.past.at(when)
            if moment.gap is None:
                self.is_as_it_was(when)

    def is_as_it_was(self, when: int) -> None:
        of, expected = self.oracle.at(when)
        moment = self.past.at(when)
        assert moment.schema == of
        table = moment.table()
        assert {*table.keys()} == expected.keys()
        assert all(equal(table.get(key), row) for key, row in expected.items())


def stories(schema: Schema) -> st.SearchStrategy[Any]:
    ends = st.tuples(
        st.sampled_from(["end", "die", "torn"]), batches(schema), st.integers(0, 2**16)
    )
    more = st.sampled_from([("write",), ("write",), ("roll",)])
    return st.lists(st.one_of(batches(schema), ends, more), min_size=2, max_size=8)


def tear(path: Path, dice: random.Random) -> None:
    """Something happens to one of the files."""
    files = sorted(path.parent.glob("*.past")) + sorted(path.parent.glob("*.journal"))
    if not files:
        return
    file = dice.choice(files)
    raw = file.read_bytes()
    match dice.choice(["cut", "cut", "flip", "gone", "other"]):
        case "cut":
            file.write_bytes(raw[: dice.randrange(len(raw) + 1)])
        case "flip" if raw:
            at = dice.randrange(len(raw))
            file.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(8)]) + raw[at + 1 :])
        case "gone":
            file.unlink()
        case _:
            file.write_bytes(dice.choice(files).read_bytes())


@some
@given(st.data(), st.sampled_from([SINGLE, TEXT, DOUBLE]), st.sampled_from([1, 3, 1024]))
def test_what_is_known_of_the_time_of_earlier_kernels_is_what_was(
    data: st.DataObject, schema: Schema, size: int
) -> None:
    """Whatever is told, written or not, however a kernel ends, and whatever then happens to the files."""
    with (
        directory() as name,
        patch("notebook_rt.sync.history.record.BATCH", size),
        patch("notebook_rt.sync.history.record.FAN", 2),
    ):
        kernels = Kernels(Path(name) / "mine" / "t.arrow", schema)
        kernels.begin()
        torn = False
        for step in data.draw(stories(schema)):
            if isinstance(step, list):
                live(kernels, step)
                continue
            match step:
                case ("write",):
                    kernels.write()
                case ("roll",):
                    kernels.write(roll=True)
                case (how, missed, seed):
                    if how == "end":
                        kernels.end()
                    else:
                        kernels.die()
                    if how == "torn":
                        torn = True
                        tear(kernels.path, random.Random(seed))
                    said = [one for _, (what, *more) in missed if what == "ops" for one in more[0]]
                    before, wrote_from = kernels.past, kernels.wrote_from
                    refused = kernels.start(said, live=seed % 2 == 0, write=seed % 3 == 0)
                    if how == "end":
                        assert torn or refused == []
                        nothing_is_lost(kernels, before, wrote_from)
            kernels.is_true()


def live(kernels: Kernels, story: list[Any]) -> None:
    for pause, step in story:
        kernels.now += max(1000, round(pause * SECOND))
        match step:
            case ("ops", said, ago, cause):
                kernels.hear(said, ago, cause)
            case ("truncate",):
                kernels.hear(None, None, "stream")
            case ("load",):
                kernels.begin()
            case ("columns",) if kernels.schema.key == ("id",):
                other = SINGLE if kernels.schema is ANOTHER else ANOTHER
                kernels.schema = other
                kernels.rows = {
                    key: {name: row.get(name) for name in other.names}
                    for key, row in kernels.rows.items()
                }
                kernels.begin()
            case ("lose",):
                kernels.past.lose("lost")
            case ("prove",):
                kernels.past.prove(kernels.now)
                kernels.proven = kernels.now + 1
            case ("regain",):
                kernels.past.regain(kernels.now)
                kernels.proven = kernels.now + 1
            case _:
                pass


def nothing_is_lost(kernels: Kernels, before: Past, wrote_from: int) -> None:
    """A kernel that ended in peace has told all: its moments and its gaps."""
    began, last = kernels.past.began, before.last
    assert began is not None
    assert last is not None
    for when in sorted(kernels.moments):
        if not max(began, wrote_from) <= when <= last:
            continue
        old, new = before.at(when), kernels.past.at(when)
        assert old.schema == new.schema
        assert (old.gap is None) == (new.gap is None), (when, old.gap, new.gap)
        if old.gap is not None:
            continue
        one, other = old.table(), new.table()
        assert {*one.keys()} == {*other.keys()}
        assert all(equal(one.get(key), other.get(key)) for key in one.keys())  # noqa: SIM118


def recorded(identity: Identity = ME) -> Archive:
    """A past of ten changes in the cache, still being written."""
    schema, found = SINGLE, cache.archive(identity)
    table, past = Table(schema), Past(SPAN, MOST)
    table.apply([Upsert(key, {"n": key}) for key in range(10)])
    past.begin(schema, table.parts(), SECOND, WHOLE, "snapshot")
    past.start_writing()
    for at in range(2, 12):
        past.add([Upsert(1, {"n": at}, at)], "stream", at * SECOND)
    assert found.take()
    for one in past.take():
        if isinstance(one, Beginning):
            found.begin(one, MOST)
        else:
            found.append(one)
    return found


def read(identity: Identity = ME) -> Past:
    found = cache.archive(identity).read(Past(SPAN, MOST), whole)
    assert found.refused == []
    return found.past


def test_a_past_is_of_one_project_login_and_table() -> None:
    mine = recorded()
    for other in (
        Identity.of("https://x.supabase.co", "6f1c", TableSpec("prices")),
        Identity.of("https://x.supabase.co", "anon", TableSpec("prices", limit=3)),
    ):
        theirs = cache.archive(other)
        assert not theirs.is_there
        theirs.path.parent.mkdir(mode=0o700, exist_ok=True)
        for path in mine.path.parent.glob(f"{mine.path.stem}.*"):
            path.rename(theirs.path.parent / path.name.replace(mine.path.stem, theirs.path.stem))
        found = theirs.read(Past(SPAN, MOST), whole)
        assert found.past.began is None
        assert "another project, login or table" in found.refused[0]
        mine.close()
        mine = recorded()


def test_nothing_of_a_past_is_open_to_others() -> None:
    mine = recorded()
    files = list(mine.path.parent.iterdir())
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    (part,) = mine.path.parent.glob("*.past")
    part.chmod(0o644)
    found = cache.archive(ME).read(Past(SPAN, MOST), whole)
    assert "is open to others" in found.refused[0]
    mine.path.parent.chmod(0o755)
    with pytest.raises(RefusedFileError, match="is open to others"):
        cache.archive(ME).read(Past(SPAN, MOST), whole)


def test_one_writes_a_past_and_everybody_reads() -> None:
    mine, other = recorded(), cache.archive(ME)
    assert not other.take()
    assert len(read()) == 10
    mine.close()
    assert other.take()
    other.close()


@pytest.mark.skipif(os.name == "nt", reason="a file that is locked is not removed there")
def test_a_past_whose_directory_was_deleted_restarts_and_one_writes_it() -> None:
    first, second = recorded(), cache.archive(ME)
    assert not first.is_full
    shutil.rmtree(first.path.parent)
    assert second.take()
    assert not first.take()
    second.close()
    assert first.take()
    assert first.is_full
    first.close()


def test_a_past_is_bounded_and_the_oldest_is_forgotten() -> None:
    mine = cache.archive(ME)
    assert mine.take()
    table, past = Table(SINGLE), Past(SPAN, MOST)
    past.begin(SINGLE, table.parts(), SECOND, WHOLE, "snapshot")
    past.start_writing()
    most = 200_000
    for at in range(2, 400):
        text = "x" * 1000
        past.add([Upsert(1, {"note": f"{text}{at}"}, at), Upsert(at, {"n": at}, at)], "stream", 0)
        for one in past.take(roll=mine.is_full):
            if isinstance(one, Beginning):
                mine.begin(one, most)
            else:
                mine.append(one)
        mine.trim(most, 0)
        assert sum(path.stat().st_size for path in mine.path.parent.iterdir()) <= 1.5 * most
    found = read()
    assert found.began is not None
    assert 100 * SECOND < found.began < 390 * SECOND
    assert found.gaps == []
    assert found.at(399 * SECOND).table().get(399)["n"] == 399
    mine.trim(most, 10**6 * SECOND)  # of what is over, only what is being written stays
    assert len(list(mine.path.parent.glob("*.past"))) == 1
    with pytest.raises(OSError, match="its beginning alone takes"):
        mine.begin(past_beginning(past), 100)


def test_who_writes_after_another_kernel_forgets_what_that_one_wrote() -> None:
    first, second = recorded(), cache.archive(ME)
    second.read(Past(SPAN, MOST), whole)
    for began in (20, 30):
        first.begin(empty_beginning(began), MOST)
    first.close()
    assert second.take()
    second.begin(empty_beginning(40), MOST)
    second.trim(MOST, 25 * SECOND)
    assert read().began == 20 * SECOND + 1
    second.trim(MOST, 35 * SECOND)
    assert read().began == 30 * SECOND + 1
    second.trim(MOST, 45 * SECOND)
    assert read().began == 40 * SECOND + 1
    second.close()


def test_a_torn_part_does_not_keep_those_before_it() -> None:
    mine = recorded()
    for began in (20, 30):
        mine.begin(empty_beginning(began), MOST)
    mine.close()
    torn = mine.path.with_suffix(".000002.past")
    torn.write_bytes(torn.read_bytes()[:-7])
    again = cache.archive(ME)
    assert again.take()
    again.trim(MOST, 25 * SECOND)
    assert len(list(mine.path.parent.glob("*.past"))) == 3
    again.trim(MOST, 35 * SECOND)
    assert [path.name[-11:] for path in mine.path.parent.glob("*.past")] == ["000003.past"]
    again.close()


def test_a_past_that_is_removed_while_the_cache_is_listed_is_not_in_it() -> None:
    mine = recorded()
    found = [mine.path.with_suffix(".000001.past")]
    mine.clear()
    mine.close()
    with patch.object(cache, "_there", lambda pattern: found if ".past" in pattern else []):
        assert cache.entries() == []
        assert cache.make_room(0, Path()) == 0


def empty_beginning(began: int) -> Beginning:
    past = Past(SPAN, MOST)
    past.begin(SINGLE, Table(SINGLE).parts(), began * SECOND, WHOLE, "snapshot")
    return past_beginning(past)


def past_beginning(past: Past) -> Beginning:
    past.start_writing()
    found, *_ = past.take()
    assert isinstance(found, Beginning)
    return found


def test_a_past_is_listed_cleared_and_the_last_to_give_way() -> None:
    mine, table = recorded(), written()
    (tables,) = (one for one in cache.entries() if one.began is None)
    (history,) = (one for one in cache.entries() if one.began is not None)
    assert (history.table, history.project) == ("public.prices", ME.project)
    assert history.began == pytest.approx(1)
    assert history.bytes > 0
    assert cache.make_room(0, tables.path) == 0  # both are being written
    mine.close()
    table.close()
    assert cache.make_room(history.bytes, Path()) == 1
    assert [one.began is not None for one in cache.entries()] == [True]
    assert cache.make_room(0, Path()) == 1
    assert cache.entries() == []
    recorded().close()
    assert cache.clear() > 0
    assert cache.entries() == []
    assert not cache.archive(ME).is_there
