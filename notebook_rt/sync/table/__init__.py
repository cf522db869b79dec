"""The mirror of one table: gaps, reading, reconciling, the audit."""
