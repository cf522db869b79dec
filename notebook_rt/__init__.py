"""A Supabase project, live inside a notebook."""
