"""The widgets: the display of live objects in a notebook (docs/design/widget-protocol.md).

Each widget is one Python class, one ES module and one style sheet of the same name, over a pure view model.
All of them communicate with the browser through one transport: ``transport.py`` (what may be sent when),
``leases.py`` (whether a view is visible), ``pump.py`` (the thread that sends) and ``common.js`` (the other
end). What they show comes from the protocols of ``sources.py``.
"""

from notebook_rt.widgets.chart import ChartWidget
from notebook_rt.widgets.grid import GridWidget
from notebook_rt.widgets.health import HealthWidget
from notebook_rt.widgets.notes import NotesWidget
from notebook_rt.widgets.presence import PresenceWidget
from notebook_rt.widgets.queue import QueueWidget
from notebook_rt.widgets.statusbar import StatusBar

__all__ = [
    "ChartWidget",
    "GridWidget",
    "HealthWidget",
    "NotesWidget",
    "PresenceWidget",
    "QueueWidget",
    "StatusBar",
]
