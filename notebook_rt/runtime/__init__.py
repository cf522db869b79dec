"""Wires the machines to the net: a session's tables, rooms, callbacks, and the notebook they live in."""
