"""Floor 1: the models. The only folder that imports flax.linen."""
