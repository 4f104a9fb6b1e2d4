"""Data: TFDS builders, the batch pipeline, cleaning, the lab, and the data card."""
