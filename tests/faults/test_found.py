"""Defects found by the fault harness, each as a minimal case without a socket, PostgreSQL or clock."""

from __future__ import annotations

from notebook_rt.errors import AuthError
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column
from notebook_rt.sync.events import Change, Fetched, FetchFailed, Received
from tests.sync.simulation import Server, World

COLUMNS = {"id": "int8", "note": "text"}


def just_read(make: type[World] = World) -> World:
    """A live table that has just been read, so that a change now may be older than the read."""
    server = Server(dict(COLUMNS))
    for key in range(1, 9):
        server.write(key, {"note": "start"})
    world = make(TableSpec("t"), server)
    world.connect()
    while world.mirror.status != "live":
        world.run(0.1)
        assert world.now < 10
    world.effects.clear()
    return world


def test_a_key_that_moves_just_after_a_read_leaves_its_old_place() -> None:
    world = just_read()
    server = world.server
    record = {**server.rows[1], "id": 99}
    server.transaction += 1
    server.rev += 1
    server._set(1, None)
    server._set(99, record)
    columns = tuple(Column(*one) for one in COLUMNS.items())
    world.handle(Received(Change("UPDATE", record, {"id": 1}, columns, server.clock)))
    world.run(5)
    assert world.differences == {}


def test_a_column_that_a_change_shows_just_after_a_read_is_seen() -> None:
    world = just_read()
    server = world.server
    server.alter({**COLUMNS, "more": "text"})
    columns = tuple(Column(*one) for one in server.columns.items())
    # A value of the new column alone: all that is known of the row is as it was.
    record = {**server.rows[1], "more": "news"}
    server._set(1, record)
    world.handle(Received(Change("UPDATE", record, {"id": 1}, columns, server.clock)))
    world.run(5)
    assert world.view[1].get("more") == "news"


class Refusing(World):
    """Every read is refused while ``refuses``."""

    refuses = False

    def _answer(self, event: Fetched | FetchFailed) -> None:
        if self.refuses:
            error = AuthError("token", "http://test", "JWT could not be verified")
            event = FetchFailed(event.request, error, None)
        super()._answer(event)


def test_a_refused_token_ends_no_table_that_is_shown() -> None:
    world = just_read(Refusing)
    assert isinstance(world, Refusing)
    world.disconnect()
    world.refuses = True
    world.server.write(1, {"note": "meanwhile"})
    world.run(20)
    assert world.failed is None
    assert world.differences != {}
    world.refuses = False
    world.settle(10)
    assert world.mirror.status == "live"
    assert world.differences == {}


def test_a_column_that_no_change_shows_is_found_by_the_audit_of_a_long_table() -> None:
    """Whose audit reads keys and versions only, and these stay as they were."""
    world = just_read()
    world.run(5)
    assert len(world.view) > world.options.page_size
    world.server.alter({**COLUMNS, "more": "text"})
    world.run(world.options.audit_max + 5)
    assert world.mirror.schema is not None
    assert "more" in world.mirror.schema.names
