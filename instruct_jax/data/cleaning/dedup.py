"""Home of the prompt filters: near-duplicates by long common prefix, too many per owner, too long.

The paper gives neither the prefix's length nor its unit: here it is counted in tokens, with a shorter bound
for short prompts. Each filter returns the prompts it kept, in their order, and how many it removed.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from instruct_jax.data.cleaning.splits import owner
from instruct_jax.records import Prompt
from instruct_jax.text.templates import Template
from instruct_jax.text.tokenizer import Tokenizer


def shares_long_prefix(a: Sequence[int], b: Sequence[int], *, long: int, share: float, shortest: int) -> bool:
    """Whether two prompts (ids) are equal or share a prefix of `long` tokens, or of `share` of the shorter
    and at least `shortest`.

    `shortest` keeps a one-word prompt from being a duplicate of all that begin with the word.
    """
    if a == b:
        return True
    needed = min(long, max(shortest, share * min(len(a), len(b))))
    common = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return common >= needed


def drop_shared_prefixes(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, *, long: int, share: float, shortest: int
) -> tuple[list[Prompt], int]:
    """Keeps prompts of which no two satisfy `shares_long_prefix`; of each such family the first in token
    order stays.

    One sort and one pass: what shares a prefix is adjacent, and as the needed length only grows with the
    shorter of two prompts, a prompt that conflicts with any kept one conflicts with the last kept one.
    """
    encoded = tokenizer.encode_batch([prompt.text for prompt in prompts])
    kept: list[int] = []
    for i in sorted(range(len(prompts)), key=encoded.__getitem__):
        if not kept or not shares_long_prefix(
            encoded[kept[-1]], encoded[i], long=long, share=share, shortest=shortest
        ):
            kept.append(i)
    return [prompts[i] for i in sorted(kept)], len(prompts) - len(kept)


def cap_per_owner(prompts: Sequence[Prompt], limit: int) -> tuple[list[Prompt], int]:
    """Keeps at most `limit` prompts (200 in the paper) of each organization, or user where none is known,
    chosen by a hash of the id.
    """
    owned: dict[str, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        owned[owner(prompt)].append(i)
    kept: list[int] = []
    for indices in owned.values():
        kept += sorted(indices, key=lambda i: hashlib.sha256(prompts[i].id.encode()).digest())[:limit]
    return [prompts[i] for i in sorted(kept)], len(prompts) - len(kept)


def drop_long(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, template: Template, max_prompt: int
) -> tuple[list[Prompt], int]:
    """Keeps prompts whose rendered text has at most `max_prompt` tokens (1k in the paper)."""
    encoded = tokenizer.encode_prompts(template, [prompt.text for prompt in prompts])
    kept = [prompt for prompt, ids in zip(prompts, encoded, strict=True) if len(ids) <= max_prompt]
    return kept, len(prompts) - len(kept)
