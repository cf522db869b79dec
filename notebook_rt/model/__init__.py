"""The vocabulary shared by all packages: rows, types, values, filters. Imports only `errors`."""
