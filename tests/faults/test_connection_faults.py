"""One fault per test, against the real stack: the effect on the connection.

Each ends as it began: live, true, and by itself, in the time that the backoff allows. The audit is
off but where it says so, so nothing of this is its doing.
"""

from __future__ import annotations

import re
import time

import pytest

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from notebook_rt.sync.connection import joins
from tests.faults.lab import Lab, laboratory
from tests.faults.truth import VIEWS, View
from tests.proxy import Answer, Cut, Drop, Rule, Stall
from tests.waiting import throughout, until

pytestmark = pytest.mark.slow

WRITES = (
    "update {t} set name = 'meanwhile', price = price + 1 where id % 3 = 0",
    "delete from {t} where id % 20 = 1",
    "insert into {t} (id, name, price, qty) select g, 'new', g, 80 from generate_series(900, 940) g",
)


def write(lab: Lab) -> None:
    """What the table must have in the end, though nobody hears of it now."""
    for statement in WRITES:
        lab.sql(statement)


@pytest.mark.parametrize(
    "seconds", [0.1, 2.5, pytest.param(60.0, marks=(pytest.mark.nightly, pytest.mark.timeout(180)))]
)
def test_the_server_is_killed_and_comes_back(stack: LocalStack, seconds: float) -> None:
    with laboratory(stack, *VIEWS, options=nrt.Options(audit_interval=0)) as lab:
        lab.proxy.down()
        write(lab)
        time.sleep(seconds)
        assert lab.frame.status != "live" or seconds < 1
        lab.proxy.up()
        # A poll that succeeds says that the network is back, so the longest wait is a poll's.
        lab.heals_within(10)


def test_a_server_that_was_there_is_said_to_be_away_since_when_not_to_have_another_url(
    stack: LocalStack,
) -> None:
    with laboratory(stack) as lab:
        lab.proxy.down()
        until(lambda: lab.session.health.status == "offline", 15, lambda: lab.session.health)
        until(lambda: "cannot reach" in lab.frame.reason, 15, lambda: lab.frame.reason)
        said = [lab.session.health.reason, lab.frame.reason, lab.session.metrics["last_error"]]
        assert not any("URL" in text for text in said)
        for text in said[1:]:
            assert re.search(r"heard of last at \d\d:\d\d:\d\d UTC", text)
            assert "your edits are kept" in text
        assert "offline since" in said[0]
        lab.proxy.up()
        lab.heals_within(10)


@pytest.mark.parametrize("code", [1000, 1006, 1012])
def test_the_socket_is_closed(stack: LocalStack, code: int) -> None:
    with laboratory(stack, *VIEWS) as lab:
        lab.proxy.close_sockets(code)
        write(lab)
        lab.heals_within(5)
        assert lab.proxy.sockets == 1


def test_the_socket_is_refused_and_the_table_polls_meanwhile(stack: LocalStack) -> None:
    with laboratory(stack, *VIEWS) as lab:
        lab.proxy.rules = (Cut(path="/websocket"),)
        lab.proxy.close_sockets()
        until(lambda: lab.frame.status == "polling", 10, lambda: lab.frame)
        for _ in range(3):
            lab.sql("update {t} set qty = 99 - qty, active = true")
            lab.true_within(5)
        until(lambda: lab.session.health.status == "polling")  # first it is "connecting"
        until(lambda: lab.session.metrics["retries"] >= 2, 10, lambda: lab.session.metrics)
        write(lab)
        lab.proxy.heal()
        lab.heals_within(5)


@pytest.mark.parametrize("rule", [Drop(kind="heartbeat"), Stall(path="/websocket")])
def test_heartbeats_are_unanswered_while_tcp_lives(stack: LocalStack, rule: Rule) -> None:
    options = nrt.Options(
        audit_interval=0, heartbeat_interval=0.5, heartbeat_timeout=0.5, backoff_base=0.2
    )
    with laboratory(stack, *VIEWS, options=options) as lab:
        lab.proxy.rules = (rule,)
        until(lambda: lab.frame.status != "live", 10)
        write(lab)
        lab.proxy.heal()
        lab.heals_within(8)


def test_a_silent_network_is_reported_within_seconds(stack: LocalStack) -> None:
    """The socket is open, nothing arrives, and requests hang: it was healthy for up to 25 s."""
    with laboratory(stack, options=nrt.Options()) as lab:
        until(lambda: lab.session.health.status == "healthy", 10, lambda: lab.session.health)
        lab.proxy.rules = (Stall(path="/websocket"), Stall(path="/rest", seconds=1e6))
        until(lambda: lab.session.health.color != "green", 8, lambda: lab.session.health)
        until(lambda: lab.session.health.status == "stale", 3, lambda: lab.session.health)
        assert re.search(r"nothing has come from the server for \d+ s", lab.session.health.reason)
        told: list[str] = []
        lab.session.on_health(lambda health: told.append(health.reason))
        until(lambda: len(set(told)) >= 2, 5, lambda: told)  # the seconds go on
        lab.proxy.heal()
        until(lambda: lab.session.health.status != "stale", 3, lambda: lab.session.health)


def test_half_open_socket_is_noticed_where_silence_is_looked_for_more_often_than_answers_are_due(
    stack: LocalStack,
) -> None:
    options = nrt.Options(
        audit_interval=0,
        heartbeat_interval=0.5,
        heartbeat_timeout=1.0,
        stale_check=0.1,
        backoff_base=0.2,
    )
    with laboratory(stack, options=options) as lab:
        disconnects = lab.session.metrics["disconnects"]
        lab.proxy.rules = (Stall(path="/websocket"),)
        until(lambda: lab.session.metrics["disconnects"] > disconnects, 10)
        lab.proxy.heal()
        lab.heals_within(8)


def test_channels_closed_by_the_server_are_joined_again(stack: LocalStack) -> None:
    with laboratory(stack, *VIEWS) as lab:
        lab.proxy.close_channels()
        write(lab)
        until(lambda: lab.proxy.counts["joins"] >= 2 * len(VIEWS), 5)
        lab.heals_within(5)
        assert lab.proxy.counts["sockets"] == 1, "the socket stayed"


def test_a_token_expires_and_another_is_had(stack: LocalStack) -> None:
    options = nrt.Options(audit_interval=0, token_margin=1.0)
    given: list[str] = []

    def token() -> str:
        given.append(stack.token("authenticated", ttl=4))
        return given[-1]

    with laboratory(stack, options=options) as lab:
        lab.sql("create policy own on {t} for select to authenticated using (true)")
        lab.sql("alter table {t} enable row level security")
        lab.session.set_auth(token)
        lab.true_within(10)

        def true_after_a_change() -> None:
            lab.sql("update {t} set qty = 99 - qty")
            lab.true_within(4)

        def third() -> bool:
            true_after_a_change()
            return len(given) >= 3

        until(third, 20, lambda: given)
        true_after_a_change()
        lab.live_within(4)  # not between two tokens


def test_a_token_expires_and_no_other_is_had_until_later(stack: LocalStack) -> None:
    with laboratory(stack) as lab:
        lab.sql("create policy own on {t} for select to authenticated using (true)")
        lab.sql("alter table {t} enable row level security")
        ends = time.time() + 3
        lab.session.set_auth(stack.token("authenticated", ttl=3))
        lab.true_within(10)
        until(lambda: time.time() > ends)  # before, the new role alone makes it stale for a moment
        until(lambda: lab.frame.status != "live", 10, lambda: lab.frame)
        write(lab)
        throughout(lambda: lab.frame.status != "live", 1.0, lambda: lab.frame)
        lab.session.set_auth(stack.token("authenticated", ttl=600))
        lab.heals_within(10)


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_storm_of_refusals_passes(stack: LocalStack, status: int) -> None:
    with laboratory(stack, *VIEWS) as lab:
        lab.proxy.rules = (Answer(status=status, path="", retry_after=1),)
        lab.proxy.close_sockets()
        write(lab)
        until(lambda: lab.frame.status != "live", 10, lambda: lab.frame)
        throughout(lambda: lab.frame.status not in ("live", "error"), 1.5, lambda: lab.frame)
        tries = lab.proxy.counts["Answer"]
        assert tries < 30, "a storm is not answered by a storm"
        lab.proxy.heal()
        lab.heals_within(10)


def test_answers_of_rest_are_cut_and_late(stack: LocalStack) -> None:
    with laboratory(stack, *VIEWS) as lab:
        lab.proxy.rules = (
            Cut(chance=0.3),
            Cut(chance=0.3, when="within"),
            Stall(chance=0.5),
        )
        lab.proxy.close_sockets()
        write(lab)
        until(lambda: lab.proxy.counts["Cut"] + lab.proxy.counts["Stall"] >= 6, 10)
        lab.proxy.heal()
        lab.heals_within(10)


def test_a_hundred_joins_at_once(stack: LocalStack) -> None:
    """One table, a hundred views of it, each with a channel: as many as a connection may have."""
    options = nrt.Options(audit_interval=0, max_channels=100, backoff_base=0.2)
    views = [
        View(f"bucket {number}", f"qty=eq.{number}", f"qty = {number}") for number in range(100)
    ]
    with laboratory(stack, *views, options=options) as lab:
        assert lab.session.metrics["channels"] == 100
        lab.sql("update {t} set qty = 99 - qty where id <= 10")  # 1,000 frames and more
        lab.true_within(10)
        lab.proxy.close_sockets()
        write(lab)
        lab.live_within(30)
        lab.true_within(20)
        assert lab.proxy.counts["joins"] == 200, "each once, and once again"


def test_presence_is_tracked_again_after_the_socket_was_lost(stack: LocalStack) -> None:
    with laboratory(stack) as lab, nrt.connect(stack.url, stack.anon_key) as watcher:
        mine, theirs = lab.session.channel("room:faults"), watcher.channel("room:faults")
        mine.presence.track(username="here")
        until(lambda: len(theirs.presence.df) == 1, 10)
        lab.proxy.down()
        until(lambda: len(theirs.presence.df) == 0, 10)
        lab.proxy.up()
        until(lambda: len(theirs.presence.df) == 1, 10)
        lab.heals_within(5)


def test_a_confirmation_that_was_lost_is_asked_for_by_joining_again(
    stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joins, "CONFIRM_WITHIN", 2.0)
    with laboratory(stack) as lab:
        joined = lab.proxy.counts["joins"]
        lab.proxy.rules = (Drop(kind="system"),)
        lab.proxy.close_sockets(1012)
        until(lambda: lab.proxy.counts["Drop"] > 1, 10)  # it is sent twice
        until(lambda: lab.frame.status == "polling", 5)
        lab.proxy.heal()
        lab.heals_within(10)
        assert lab.proxy.counts["joins"] >= joined + 2
