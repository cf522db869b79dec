"""``LiveWidget``: an anywidget whose whole life on the comm goes through one ``Link``.

No synced trait changes after the widget was made: state travels in custom messages, so a saved
notebook keeps the widget's code and nothing else (no rows, no names, nothing secret). What is
here is the part that touches ipywidgets and IPython: one re-entrant lock around everything that
writes to the comm, handlers that only enqueue, the guard against ipykernel 7.4 pinning a comm to
the main shell, closing what a cell made before when it runs again, and the static form.
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
    """Return a file that ``build.mjs`` has bundled from the sources beside this module.

    anywidget takes one ES module without relative imports and one style sheet. The repository and
    the wheel carry the bundles, so that only who changes a widget needs node (``./do js``).
    """
    return (HERE / "built" / name).read_text("utf-8")


class _BusyKernel:
    """Whether a word from the browser can reach us now.

    A kernel without subshells handles no comm message while a cell runs. That a message was once
    handled on a ``subshell-`` thread proves that this kernel and this front end use them.
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
    """The base of every widget here.

    Parameters
    ----------
    model
        What is shown.
    subscribe
        Called with "something changed"; returns how to stop listening.
    eyes
        Told what the browser tells (``sources.OnViewer``).
    while_seen
        Listen only while somebody looks: what is behind a lazy table then stops too.
    static
        Makes the form for viewers without a kernel: ``(plain text, HTML)``, the HTML escaped.
    """

    pin_replies_to_main = False
    """True: leave ipykernel 7.4's routing of messages alone (``docs/design/notebooks.md``)."""
    _closed = False
    libraries: Mapping[str, Callable[[], bytes]] = {}
    """Gzipped modules that a page may ask for once, by name (``library.js``)."""

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
            # ipykernel 7.4 answers on the shell that sent last: a click would wait for the cell.
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
        """Draw again, when the pace allows. Safe from any thread."""
        pump.mark(self._link)

    @property
    def seen(self) -> bool:
        """Somebody looks at a view of this widget."""
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
        """marimo closes the comms of a cell that is run again, and forgets a visitor who has left:
        the widget is over then.
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
        """Tell the views why nothing comes any more, and close."""
        if self.comm is not None:
            self._send_now({"t": "gone", "why": why}, ())
        self.close()

    def close(self) -> None:
        """Close the comm; the views stay as they are."""
        if self._closed or not hasattr(self, "_link"):
            return  # without a link it was never made: what was wrong has been raised
        self._closed = True
        self._stay()
        self._listen(False)
        pump.remove(self._link)
        living.closed(self)
        with self._write:
            if self.comm is not None:
                self.layout.close()  # a comm of its own, which nobody else would close
            super().close()
        self._release()

    def _release(self) -> None:
        """Keep nothing of what was shown: a host may hold on to a closed widget (marimo does)."""
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
        # Runs on whatever thread the kernel likes: hand over, and never print (ipykernel#1564).
        if threading.current_thread().name.startswith("subshell-"):
            kernel_is_busy.subshells = True
        pump.call(lambda: self._take_message(content))

    def _take_message(self, content: Mapping[str, Any]) -> None:
        if self._closed:
            return
        if content.get("t") == "library":
            name = str(content.get("name"))
            if name in self.libraries:  # may have to be built: not on the thread that draws
                pump.act(lambda: self._send_library(name))
        elif content.get("t") == "static":  # the page refuses the library: what a viewer would see
            pump.act(lambda: self._send_now({"t": "static", "html": self._static()[1]}, ()))
        else:
            self._link.receive(content, pump.now())

    def _send_library(self, name: str) -> None:
        try:
            library = self.libraries[name]()
        except Exception as error:  # whoever looks is told, instead of waiting for ever
            why = f"{type(error).__name__}: {error}"
            self._send_now({"t": "library", "name": name, "error": cut(printable(why))}, ())
        else:
            self._send_now({"t": "library", "name": name}, (library,))

    # Two writers at once lose the final state (docs/design/notebooks.md): everything below takes the lock.
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
    """A plain HTML table of texts, every one escaped."""

    def line(tag: str, cells: Sequence[object]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(line("td", row) for row in rows)
    return f"<table>{title}<thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"
