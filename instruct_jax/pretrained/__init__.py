"""Checkpoints that others trained, and ours for others to load."""
