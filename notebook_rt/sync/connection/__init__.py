"""Of the connection: its states, joins, health and presence."""
