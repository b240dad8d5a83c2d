"""Metrics, and evaluation of a prompt on a split."""
