"""From examples to batches. Only `seqio_tasks` imports seqio and TensorFlow."""
