"""The used private parts of ``realtime`` and ``websockets`` exist, and each is documented."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime._async.presence import AsyncRealtimePresence
from realtime._async.push import AsyncPush
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

import notebook_rt
from notebook_rt.net.websocket import upstream

NAMES = re.findall(r"``(Async\w+)\.(\w+)``", upstream.__doc__ or "")
PACKAGE = Path(notebook_rt.__file__).parent


async def test_the_names_of_realtime_that_are_leaned_on_are_there() -> None:
    """A new release that renames one breaks this test, and not a user."""
    client = AsyncRealtimeClient("http://127.0.0.1:1", "t", False, params={"apikey": "t"})
    channel = AsyncRealtimeChannel(client, "realtime:x", {"config": {}})  # type: ignore[typeddict-item]  # as little as can be
    found = {type(one).__name__: one for one in (client, channel, AsyncPush(channel, "e"))}
    found["AsyncRealtimePresence"] = channel.presence
    assert len(NAMES) > 10
    for owner, name in NAMES:
        assert hasattr(found[owner], name), f"{owner}.{name}"
    url = client.endpoint_url()
    assert "vsn=1.0.0" in url
    assert url.count("apikey=t") == 1


def test_every_private_name_of_realtime_that_is_used_is_written_down_with_its_reason() -> None:
    tree = ast.parse(inspect.getsource(upstream))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    assert private <= {name for _, name in NAMES}
    for text in re.split(r"\n(?=``)", upstream.__doc__ or "")[1:]:
        assert "Wanted:" in text, text
    # Nor is anything else overridden.
    theirs = {AsyncRealtimeClient: upstream.Carrier, AsyncRealtimeChannel: upstream.CarriedChannel}
    for base, ours in theirs.items():
        overridden = {
            name for name in vars(ours) if name in dir(base) and not name.startswith("__")
        }
        written = {name for owner, name in NAMES if owner == base.__name__}
        assert overridden <= written


def test_realtime_is_imported_in_one_module() -> None:
    importing = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^\s*(from|import) realtime\b", path.read_text(), re.M)
    }
    # The demo's writer is somebody else: an unmodified client, in a process of its own.
    assert importing - {"sample/writer.py"} == {"net/websocket/upstream.py"}


def test_the_names_of_websockets_that_are_leaned_on_are_there() -> None:
    assert hasattr(ClientConnection, "process_event")
    assert {"close_rcvd", "close_sent"} <= vars(ClientProtocol(parse_uri("ws://x"))).keys()
    assert "create_connection" in inspect.signature(connect.__init__).parameters
    assert AsyncRealtimePresence().state == {}
