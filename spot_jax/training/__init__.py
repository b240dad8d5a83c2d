"""Training runs: settings, state and step, the loop, sharding, checkpoints, logs."""
