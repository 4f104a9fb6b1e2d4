"""Attention, one file per implementation; xla is the one that runs everywhere."""
