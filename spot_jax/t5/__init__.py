"""T5: its shape, its arithmetic, its checkpoints, its vocabulary, decoding."""
