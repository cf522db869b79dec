"""``LiveWidget``: an anywidget whose whole communication over the comm goes through one ``Link``.

No synced trait changes after the widget was made: state is sent in custom messages, so a saved notebook keeps
the widget's code and nothing else (no rows, no names, no secrets). This module contains the part that uses
ipywidgets and IPython: one re-entrant lock around everything that writes to the comm, handlers that only
enqueue, the workaround for ipykernel 7.4 pinning a comm to the main shell, closing a cell's earlier widgets
when it runs again, and the static form.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget

from notebook_rt.quoting import printable
from notebook_rt.runtime import host
from notebook_rt.widgets.lifetime import Cells
from notebook_rt.widgets.pump import Pump
from notebook_rt.widgets.sources import OnViewer, Unsubscribe
from notebook_rt.widgets.state import StateModel, cut
from notebook_rt.widgets.transport import Budget, Link, ViewModel

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
CLOSED = "closed: the cell that made it has run again"


def built(name: str) -> str:
    """Return a file that ``build.mjs`` has bundled from the sources next to this module.

    anywidget takes one ES module without relative imports and one style sheet. The repository and the wheel
    contain the bundles, so node is needed only to change a widget (``./do js``).
    """
    return (HERE / "built" / name).read_text("utf-8")


class _BusyKernel:
    """Whether messages from the browser cannot be received now.

    A kernel without subshells handles no comm message while a cell runs. A message that was handled on a
    ``subshell-`` thread proves that this kernel and this front end use them.
    """

    def __init__(self) -> None:
        self.subshells = False
        self._busy = False
        self._shell: Any = None

    def __call__(self) -> bool:
        return self._busy and not self.subshells

    def watch(self) -> None:
        """Listen to the shell's cells, once."""
        shell = host.kernel_shell()
        if shell is None or shell is self._shell:
            return
        self._shell = shell
        self._busy = True  # a widget is made by a running cell
        shell.events.register("pre_run_cell", lambda *_: setattr(self, "_busy", True))
        shell.events.register("post_run_cell", lambda *_: setattr(self, "_busy", False))


def _do_nothing() -> None:
    pass


kernel_is_busy = _BusyKernel()
pump = Pump()
living: Cells[LiveWidget]


class LiveWidget(anywidget.AnyWidget):
    """The base class of all widgets here.

    Parameters
    ----------
    model
        The view model.
    subscribe
        Subscribes a callback for changes; returns a function that unsubscribes it.
    eyes
        Called with the browser's reports (``sources.OnViewer``).
    while_seen
        Listen only while a view is visible: then a lazy table behind it stops, too.
    static
        Makes the form for viewers without a kernel: ``(plain text, HTML)``, the HTML escaped.
    """

    pin_replies_to_main = False
    """True: leave ipykernel 7.4's routing of messages unchanged (``docs/design/notebooks.md``)."""
    _closed = False
    libraries: Mapping[str, Callable[[], bytes]] = {}
    """Gzipped modules that a page may request once, by name (``library.js``)."""

    def __init__(
        self,
        model: ViewModel,
        *,
        subscribe: Callable[[Callable[[], object]], Unsubscribe],
        static: Callable[[], tuple[str, str]],
        on_viewer: OnViewer | None = None,
        while_seen: bool = False,
    ) -> None:
        self._write = threading.RLock()
        self._static = static
        self._subscribe = subscribe
        self._while_seen = while_seen
        self._on_viewer = on_viewer
        marimo_runs = host.cell_runs()
        self._link = Link(
            model,
            pump.budget,
            on_viewer=self._on_viewers,
            deaf=lambda: kernel_is_busy() or marimo_runs(),
        )
        self._stop: Unsubscribe = _do_nothing
        super().__init__()
        kernel_is_busy.watch()
        comm = self.comm
        if not self.pin_replies_to_main and hasattr(comm, "_reply_subshell_for"):
            # ipykernel 7.4 replies on the shell that sent last: a click would wait for the cell.
            comm._reply_subshell_for = lambda data, default: default
        self._follow_host()
        self.on_msg(self._enqueue)
        pump.add(self._link, self._send_now)
        if not while_seen:
            self._stop = subscribe(self.changed)
        run = host.running() or host.Run(None, None)
        for old in living.made(self, run.cell, run.number):
            old.finish("replaced")

    def changed(self) -> None:
        """Request a redraw when the pace allows. Safe from any thread."""
        pump.mark(self._link)

    @property
    def seen(self) -> bool:
        """Whether a view of this widget is visible."""
        return len(self._link.leases) > 0

    def _on_viewers(self, content: Any) -> None:
        if self._while_seen and content in ("seen", "unseen"):
            self._listen(content == "seen")
        if self._on_viewer is not None:
            self._on_viewer(content)

    def _listen(self, on: bool) -> None:
        self._stop()
        self._stop = self._subscribe(self.changed) if on else _do_nothing

    def _follow_host(self) -> None:
        """Close the widget when its host ends it.

        marimo closes the comms of a cell that is run again, and forgets a visitor who has left.
        """
        weak, comm = weakref.ref(self), self.comm

        def over() -> None:
            widget = weak()
            if widget is not None:
                widget.close()

        self._stay = host.at_session_end(lambda: pump.act(over))
        if getattr(comm, "kernel", None) == "marimo":
            close = comm.close

            def closed(*args: Any, **options: Any) -> None:
                close(*args, **options)
                over()

            comm.close = closed

    def finish(self, why: str) -> None:
        """Report to the views why there will be no more updates, and close."""
        if self.comm is not None:
            self._send_now({"t": "gone", "why": why}, ())
        self.close()

    def close(self) -> None:
        """Close the comm; the views stay as they are."""
        if self._closed or not hasattr(self, "_link"):
            return  # without a link its constructor has raised
        self._closed = True
        self._stay()
        self._listen(False)
        pump.remove(self._link)
        living.closed(self)
        with self._write:
            if self.comm is not None:
                self.layout.close()  # a comm of its own, which would stay open otherwise
            super().close()
        self._release()

    def _release(self) -> None:
        """Keep nothing of what was shown: a host may keep a closed widget (marimo does)."""
        self._static, self._subscribe, self._on_viewer = (
            lambda: (CLOSED, CLOSED),
            lambda _: _do_nothing,
            None,
        )
        self._link = Link(StateModel({}), Budget())

    def _send_now(self, content: Mapping[str, Any], buffers: Sequence[bytes]) -> None:
        with self._write:
            if self.comm is not None:
                self.send(dict(content), list(buffers))

    def _enqueue(self, _: object, content: Mapping[str, Any], buffers: Sequence[bytes]) -> None:
        # Runs on any of the kernel's threads: only enqueue, and never print (ipykernel#1564).
        if threading.current_thread().name.startswith("subshell-"):
            kernel_is_busy.subshells = True
        pump.call(lambda: self._take_message(content))

    def _take_message(self, content: Mapping[str, Any]) -> None:
        if self._closed:
            return
        if content.get("t") == "library":
            name = str(content.get("name"))
            if name in self.libraries:  # a slow build must not block the drawing thread
                pump.act(lambda: self._send_library(name))
        elif content.get("t") == "static":  # the page refuses the library: send the static form
            pump.act(lambda: self._send_now({"t": "static", "html": self._static()[1]}, ()))
        else:
            self._link.receive(content, pump.now())

    def _send_library(self, name: str) -> None:
        try:
            library = self.libraries[name]()
        except Exception as error:  # the view gets the error instead of waiting forever
            why = f"{type(error).__name__}: {error}"
            self._send_now({"t": "library", "name": name, "error": cut(printable(why))}, ())
        else:
            self._send_now({"t": "library", "name": name}, (library,))

    # Two writers at once lose the final state (docs/design/notebooks.md): all methods below take the lock.
    def notify_change(self, change: Any) -> None:
        with self._write if hasattr(self, "_write") else ExitStack():
            super().notify_change(change)

    def set_state(self, sync_data: Any) -> None:
        with self._write:
            super().set_state(sync_data)

    def send_state(self, key: Any = None) -> None:
        with self._write:
            super().send_state(key)

    @contextmanager
    def hold_sync(self) -> Iterator[None]:
        with self._write, super().hold_sync():
            yield

    def __repr__(self) -> str:
        return printable(self._static()[0], lines=True)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        text, html = self._static()
        bundle[0]["text/plain"] = printable(text, lines=True)
        bundle[0]["text/html"] = html
        return bundle


living = Cells(seen=lambda widget: widget.seen)


def static_table(head: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> str:
    """Return a plain HTML table of texts, all escaped."""

    def line(tag: str, cells: Sequence[object]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(line("td", row) for row in rows)
    return f"<table>{title}<thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"
