"""Local edits as values: composed, merged and laid over a table. No file, no socket."""
