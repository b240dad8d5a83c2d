"""Training runs: recipes, state and step, the loop, sharding, checkpoints, logs."""
