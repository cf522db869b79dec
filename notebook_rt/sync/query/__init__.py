"""Views and functions, which are fetched again."""
