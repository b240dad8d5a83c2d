"""Using what was tuned: scores on tasks, predictions for lines of text."""
