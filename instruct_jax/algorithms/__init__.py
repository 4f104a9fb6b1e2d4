"""Floor 2: pure and unjitted algorithms, arrays in and arrays out."""
