"""Backbones that ship."""
