"""The papers' data sets: what they are and how they are written.

`tasks.papers_tasks` registers them with seqio; the catalogue is read without seqio and TensorFlow.
"""
