"""instruct_jax: InstructGPT (Ouyang et al. 2022, arXiv 2203.02155) in JAX, from data to evaluation.

Names of arrays end in their dimensions (`logits_BTV`, `kl_BR`). The key, the same in every file:

    B  batch (sequences)                 D  model width            N  layers
    T  tokens (prompt + response)        F  MLP width              S  KV-cache length
    P  prompt tokens                     H  query heads            V  vocabulary
    R  response tokens                   G  key/value heads        X  tokens read by the heads, a slice of T
    K  completions per prompt            C  channels of one head
"""

__version__ = "0.1.0"
