"""The laws of the files: data that is read is a state that was once written, or nothing."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.disk import cache, journal, shelf, snapshot, values
from notebook_rt.disk.errors import RefusedFileError
from notebook_rt.disk.kept import Identity
from notebook_rt.disk.shelf import Shelf
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import equal
from notebook_rt.store.table import Table
from tests.disk.model import ME, batches, facts, kept_of, ops_of, restored, schemas, state, written
from tests.laws import directory, examples
from tests.store.test_laws import VALUES

some = settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
backends = st.sampled_from([None, "numpy_nullable", "pyarrow"])


@given(st.one_of(*VALUES.values()) | st.lists(st.one_of(*VALUES.values()), max_size=3))
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    found = values.load(values.dump(value))
    assert equal(found, value)
    assert type(found) is type(value)


class History:
    """A table that is written, batch by batch, with a copy of every state that was."""

    def __init__(self, data: st.DataObject, path: Path) -> None:
        self.schema = data.draw(schemas())
        self.shelf = Shelf(path, ME)
        assert self.shelf.take()
        self.table, self.versions = Table(self.schema), dict[Any, int]()
        self.table.apply(data.draw(ops_of(self.schema)))
        self.states: list[Any] = []
        self.snapshot(data)

    def snapshot(self, data: st.DataObject) -> None:
        kept = kept_of(self.table, data.draw(facts), self.versions)
        self.shelf.write(kept)
        self.ranked = repr(None)
        self.note(kept.facts)

    def batch(self, data: st.DataObject) -> None:
        batch = data.draw(batches(self.schema))
        self.table.apply(batch.ops)
        for op in batch.ops:
            self.versions.pop(op.key, None)
        self.versions.update(
            {key: xmin for key, xmin in batch.versions.items() if key in self.table}
        )
        self.shelf.append(batch, self.schema)
        self.ranked = self.ranked if batch.ranked is None else repr(batch.ranked)
        self.note(batch.facts)

    def note(self, told: Any) -> None:
        rows = [(repr(key), self.versions.get(key)) for key in list(self.table.keys())]
        self.states.append((self.table.snapshot(), rows, told, self.ranked))


def same(found: Any, once: Any) -> bool:
    try:
        pd.testing.assert_frame_equal(found[0], once[0])
    except AssertionError:
        return False
    return bool(found[1:] == once[1:])


@some
@given(st.data(), st.lists(st.sampled_from(["batch", "batch", "snapshot"]), max_size=5), backends)
def test_any_history_that_is_written_is_read_back(
    data: st.DataObject, steps: list[str], backend: Any
) -> None:
    with directory() as name:
        history = History(data, Path(name) / "mine" / "t.arrow")
        for step in steps:
            getattr(history, step)(data)
        found = Shelf(history.shelf.path, ME).read()
        assert found.known == history.schema
        assert same(state(found), history.states[-1])
        table, _ = restored(found, backend)  # and it is a table like any other from then on
        other = Table(history.schema, backend)
        other.restore(found_again(history))
        more = data.draw(ops_of(history.schema))
        for one in (table, other):
            one.apply(more)
        pd.testing.assert_frame_equal(table.snapshot(), other.snapshot())


def found_again(history: History) -> Any:
    """The columns of a second reading of a snapshot with everything in it."""
    history.shelf.write(kept_of(history.table, history.states[-1][2], history.versions))
    return Shelf(history.shelf.path, ME).read().columns


def damaged(raw: bytes, older: list[bytes], dice: random.Random) -> bytes:
    """A file's bytes after something has happened to them: mostly to what holds the rows."""
    match dice.choice(["as it is", "as it is", "cut", "flip", "flip", "older", "more", "records"]):
        case "cut":
            return raw[: dice.randrange(len(raw) + 1)]
        case "flip":
            # Where the numbers and the text are: behind Arrow's own head, ahead of ours.
            end = raw.rfind(b'{"project"') if raw[:8] == snapshot.FIRST[:8] else len(raw)
            at = dice.randrange(len(raw)) if dice.random() < 0.3 else dice.randrange(end // 3, end)
            return raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(8)]) + raw[at + 1 :]
        case "older":
            return dice.choice(older)
        case "more":
            return raw + dice.randbytes(dice.randrange(40))
        case "records" if raw[:8] == journal.MAGIC:
            head, _ = journal.begin("", snapshot.FORMAT)
            found, at = [], len(head)
            while at < len(raw):
                length = int.from_bytes(raw[at : at + 4], "little") + 8
                found.append(raw[at : at + length])
                at += length
            mixed = dice.choices(found, k=len(found)) if found else []
            return raw[: len(head)] + b"".join(mixed)
    return raw


@some
@given(
    st.data(),
    st.lists(st.sampled_from(["batch", "batch", "batch", "snapshot"]), min_size=1, max_size=5),
    st.integers(0, 2**32),
)
def test_whatever_is_cut_off_flipped_or_mixed_what_is_read_was_once_written(
    data: st.DataObject, steps: list[str], seed: int
) -> None:
    with directory() as name:
        path, dice = Path(name) / "mine" / "t.arrow", random.Random(seed)
        history = History(data, path)
        files = [path, path.with_suffix(shelf.JOURNAL)]
        older = [[file.read_bytes()] for file in files]
        for step in steps:
            getattr(history, step)(data)
            for file, before in zip(files, older, strict=True):
                before.append(file.read_bytes())
        for _ in range(30):
            for file, before in zip(files, older, strict=True):
                file.write_bytes(damaged(before[-1], before, dice))
            with suppress(RefusedFileError, OSError):
                found = state(Shelf(path, ME).read())
                assert any(same(found, one) for one in history.states)


@some
@given(st.data())
def test_a_table_that_is_read_can_be_written_to_and_the_file_stays(data: st.DataObject) -> None:
    with directory() as name:
        history = History(data, Path(name) / "mine" / "t.arrow")
        raw = history.shelf.path.read_bytes()
        table, _ = restored(history.shelf.read())
        for _ in range(3):  # left and right buffers have both been written to then
            table.apply(data.draw(ops_of(history.schema)))
            table.snapshot()
        assert history.shelf.path.read_bytes() == raw


def test_what_another_login_project_or_table_has_kept_is_not_there() -> None:
    mine = written()
    for other in (
        Identity.of("https://x.supabase.co", "6f1c", TableSpec("prices")),
        Identity.of("https://y.supabase.co", "anon", TableSpec("prices")),
        Identity.of("https://x.supabase.co", "anon", TableSpec("prices", limit=3)),
    ):
        assert not cache.shelf(other).is_there
        elsewhere = cache.path_of(other)
        elsewhere.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy2(mine.path, elsewhere)
        with pytest.raises(RefusedFileError, match="another project, login or table"):
            cache.shelf(other).read()


def test_a_table_that_is_kept_is_there_whichever_way_its_changes_come() -> None:
    kept, *others = (
        Identity.of("https://x.supabase.co", "anon", TableSpec("prices", source=source))
        for source in ("auto", "changes", "broadcast")
    )
    assert others == [kept, kept]


def test_a_newer_format_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "FORMAT", snapshot.FORMAT + 1)
        mine = written()
    with pytest.raises(RefusedFileError, match="its format is 2") as refused:
        mine.read()
    assert refused.value.kind == "newer"


@pytest.mark.parametrize("what", ["directory", "snapshot", "journal"])
def test_what_others_may_read_or_write_is_refused(what: str) -> None:
    mine = written()
    files = {"directory": mine.path.parent, "snapshot": mine.path}
    files["journal"] = mine.path.with_suffix(shelf.JOURNAL)
    assert [path.stat().st_mode & 0o777 for path in files.values()] == [0o700, 0o600, 0o600]
    files[what].chmod(0o755 if what == "directory" else 0o644)
    with pytest.raises(RefusedFileError, match="is open to others"):
        mine.read()


def test_a_link_is_refused() -> None:
    mine = written()
    aside = mine.path.with_suffix(".aside")
    mine.path.rename(aside)
    mine.path.symlink_to(aside)
    with pytest.raises((RefusedFileError, OSError)):
        mine.read()


@pytest.mark.parametrize("what", ["a directory of another user", "a file", "no home"])
def test_where_nothing_can_be_kept_nothing_raises_but_what_is_read_and_written(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with directory() as name:
        monkeypatch.setenv("XDG_CACHE_HOME", name)
        match what:
            case "a file":
                (Path(name) / "notebook_rt").touch()
            case "no home":
                monkeypatch.setattr(cache.platformdirs, "user_cache_dir", no_home)
            case _:  # whoever runs the tests may be root, who may look into it
                stat = Path.stat

                def refused(path: Path, **how: Any) -> Any:
                    if "tables" in path.parts[:-1]:
                        raise PermissionError(13, "Permission denied", str(path))
                    return stat(path, **how)

                monkeypatch.setattr(Path, "stat", refused)
        for use in (lambda: cache.shelf(ME).read(), lambda: cache.shelf(ME).take()):
            with pytest.raises(OSError, match=r"Permission|directory"):
                use()
        assert cache.entries() == []
        assert cache.clear() == cache.clear_user("https://x.supabase.co", "anon") == 0
        assert cache.make_room(0, Path(name)) == 0
        if what != "no home":
            for one in (cache.shelf(ME), cache.archive(ME)):
                # If that cannot be told it is read, and refused.
                assert one.is_there == (what == "a directory of another user")


def no_home(*asked: Any) -> str:
    """What platformdirs does where neither the environment nor the system knows a home."""
    raise RuntimeError("could not determine the home directory for '~/.cache'")


def test_one_writes_and_everybody_reads() -> None:
    mine, other = written(), cache.shelf(ME)
    assert not other.take()
    assert len(restored(other.read())[0]) == 10
    mine.close()
    assert other.take()
    other.close()


@pytest.mark.skipif(os.name == "nt", reason="a file that is locked is not removed there")
def test_who_lost_the_lock_with_the_directory_takes_it_again_or_writes_no_more() -> None:
    with directory() as name:
        path = Path(name) / "mine" / "t.arrow"
        first, second = Shelf(path, ME), Shelf(path, ME)
        assert first.take()
        assert first.take()
        shutil.rmtree(path.parent)
        assert second.take()
        assert not first.take()
        second.close()
        assert first.take()
        assert first.is_full  # what it goes on from is not there any more
        shutil.rmtree(path.parent)
        assert first.take()
        assert not second.take()


def test_a_disk_that_knows_no_locks_is_not_taken_for_another_writer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unlockable:
        """A connection to a file on a network without locks."""

        def execute(self, statement: str) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_LOCK
            raise error

        def close(self) -> None:
            pass

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: Unlockable())
    with pytest.raises(OSError, match="cannot be locked: disk I/O error"):
        cache.shelf(ME).take()


def test_a_writer_that_was_killed_leaves_no_half_written_file() -> None:
    mine = written()
    half = mine.path.with_name(mine.path.name + "abc.new")
    half.write_bytes(b"half")
    mine.close()
    assert cache.shelf(ME).take()
    assert not half.exists()


def test_what_was_used_least_lately_gives_way() -> None:
    names = ("a", "b", "c")
    tables = [
        written(Identity.of("https://x.supabase.co", "anon", TableSpec(name))) for name in names
    ]
    for age, table in zip((3, 1, 2), tables, strict=True):
        table.close()
        for path in table.path.parent.glob(f"{table.path.stem}.*"):
            os.utime(path, (1e9 - age, 1e9 - age))
    assert [one.table for one in cache.entries()] == ["public.a", "public.c", "public.b"]
    size = cache.entries()[0].bytes
    assert cache.make_room(2 * size, tables[0].path) == 1
    assert [one.table for one in cache.entries()] == ["public.a", "public.b"]
    assert tables[1].take()  # somebody writes it
    assert cache.make_room(0, tables[0].path) == 0
    assert cache.clear() > 0
    assert cache.entries() == []


def test_nothing_in_the_files_is_a_login() -> None:
    login = "6f1c1c1e-0000-4000-8000-000000000000"
    mine = written(Identity.of("https://x.supabase.co", login, TableSpec("prices")))
    for path in mine.path.parent.iterdir():
        assert login.encode() not in path.read_bytes() + str(path).encode()
