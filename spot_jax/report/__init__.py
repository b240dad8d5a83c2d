"""A study as a page: figures, tables and one HTML file that needs no network."""
