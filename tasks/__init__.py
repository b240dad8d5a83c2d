"""seqio tasks, one file a benchmark family, and the small real data that ships in `bundled/`."""
