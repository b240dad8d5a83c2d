"""A library of prompts: stored, indexed, ranked by similarity, exchanged with others."""
