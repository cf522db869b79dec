"""A proxy that lies: one loopback port in front of a project, for HTTP and websocket, frame-aware.

What comes in: the address of a project and, while it runs, rules (``Drop``, ``Double``, ``Delay``,
``Reorder``, ``Truncate``, ``Swallow``, ``Refuse``, ``Answer``, ``Cut``, ``Stall``, …), small frozen
values, each with the chance and the scope it works in. What goes out: the same traffic with these
faults in it, and counts of what was done. It lives on a thread of its own, so sync tests use it
in-process; chance comes from one seed. It serves promises 1 to 10 of the design: what they say is
shown through this.
"""

from __future__ import annotations
