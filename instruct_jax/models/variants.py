"""The home of the model sizes: GPT-3's table (paper.md 2) and small ones for a laptop.

The paper trains 1.3B, 6B and 175B; `tiny`, `lab_s` and `lab` are ours, for tests and for runs on a CPU.
"""

import dataclasses
import difflib
from dataclasses import dataclass

from instruct_jax.errors import InputError

VOCAB_MULTIPLE = 128


@dataclass(frozen=True)
class TransformerConfig:
    """Shape and numerics of one transformer; wrong numbers raise InputError naming the field."""

    vocab: int
    layers: int
    width: int
    heads: int
    context: int
    mlp: int | None = None  # None: 4 * width
    dropout: float = 0.0
    dtype: str = "float32"  # of the computation; parameters stay float32
    remat: str = "none"  # "none", "full" or "dots" (keep the products of matrices with weights)
    logit_chunk: int = 1024  # tokens whose logits are alive at once
    unroll: bool = False  # layers written out: a third faster on a CPU; a scan compiles fast at any depth

    def __post_init__(self):
        if self.mlp is None:
            object.__setattr__(self, "mlp", 4 * self.width)
        for field in ("vocab", "layers", "width", "heads", "context", "mlp", "logit_chunk"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"model.{field} is {value!r}: it must be a whole number of at least 1")
        if self.width % self.heads:
            raise InputError(
                f"model.width {self.width} is not a multiple of model.heads {self.heads}: change one"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"model.dropout is {self.dropout!r}: it must be in [0, 1)")
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"model.dtype is {self.dtype!r}: use 'float32' or 'bfloat16'")
        if self.remat not in ("none", "full", "dots"):
            raise InputError(f"model.remat is {self.remat!r}: use 'none', 'full' or 'dots'")

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.width // self.heads

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding: `vocab` rounded up to whole tiles, so that it also divides over a mesh."""
        return -(-self.vocab // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


GPT3_VOCAB = 50257

VARIANTS: dict[str, dict] = {
    "tiny": dict(vocab=128, layers=2, width=32, heads=2, context=64, unroll=True),
    "lab_s": dict(vocab=1024, layers=3, width=96, heads=3, context=256, unroll=True),
    "lab": dict(vocab=1024, layers=4, width=128, heads=4, context=256, unroll=True),
    "gpt3_125m": dict(vocab=GPT3_VOCAB, layers=12, width=768, heads=12, context=2048, dtype="bfloat16"),
    "gpt3_350m": dict(vocab=GPT3_VOCAB, layers=24, width=1024, heads=16, context=2048, dtype="bfloat16"),
    "gpt3_1p3b": dict(
        vocab=GPT3_VOCAB, layers=24, width=2048, heads=16, context=2048, dtype="bfloat16", remat="full"
    ),
    "gpt3_6b": dict(
        vocab=GPT3_VOCAB, layers=32, width=4096, heads=32, context=2048, dtype="bfloat16", remat="full"
    ),
    "gpt3_175b": dict(
        vocab=GPT3_VOCAB, layers=96, width=12288, heads=96, context=2048, dtype="bfloat16", remat="full"
    ),
}


def variant(name: str, **overrides) -> TransformerConfig:
    """The named size with fields replaced; an unknown name or field raises InputError with the nearest one."""
    fields = [field.name for field in dataclasses.fields(TransformerConfig)]
    _known(name, VARIANTS, "model variant")
    for field in overrides:
        _known(field, fields, "model field")
    return TransformerConfig(**{**VARIANTS[name], **overrides})


def _known(name: str, names, kind: str) -> None:
    if name in names:
        return
    nearest = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise InputError(f"unknown {kind} {name!r}.{hint} There are: {', '.join(names)}")
