"""Sentences of movie reviews with people's ratings of their sentiment, and the judges fitted on them (Ziegler et al. 2019)."""
