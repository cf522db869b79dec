"""The words that all sides share: rows, types, values, filters. Imports `errors` and nothing else."""
