"""Cleaning of prompts: filters, splits by owner, and few-shot expansion (paper 1.1, 1.2)."""
