"""The papers' data sets. Importing this registers them all; no file or network is touched."""
