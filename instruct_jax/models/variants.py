"""The home of the model's shape: one set of switches for every family, GPT-3's table and small sizes for a laptop.

The paper trains 1.3B, 6B and 175B; `tiny`, `lab` and `lab_reward` are ours, for tests and for runs on a CPU. The switches' defaults are
GPT-3's; pretrained/families.py says which of them another family throws.
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass

from instruct_jax.errors import InputError

VOCAB_MULTIPLE = 128
LARGEST = {"vocab": 1 << 24, "layers": 10_000, "width": 1 << 24}  # beyond this a number is an error or a lie
CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "remat": ("none", "full", "dots"),
    "attention": ("auto", "xla", "splash", "cudnn"),
    "norm": ("layer", "rms"),
    "positions": ("learned", "rope"),
    "activation": ("gelu_tanh", "gelu", "relu", "silu"),
}
REALS = (
    "norm_eps",
    "rope_theta",
    "rope_local_theta",
    "rope_share",
    "attention_scale",
    "attention_softcap",
    "logit_softcap",
)


def _positive(value) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and math.isfinite(value) and value > 0


@dataclass(frozen=True)
class RopeScaling:
    """Positions stretched for a context longer than trained on: all divided by `factor`, or, with an `original_context`, as
    Llama 3.1 does: only frequencies that turn fewer than `low` times in it, those above `high` times left alone, mixed between."""

    factor: float
    low: float = 1.0
    high: float = 4.0
    original_context: int = 0

    def __post_init__(self):
        if not _positive(self.factor) or not (
            _positive(self.low) and _positive(self.high) and self.low < self.high
        ):
            raise InputError(
                f"model.rope_scaling has factor {self.factor!r}, low {self.low!r}, high {self.high!r}: "
                "they must be numbers above 0, low below high"
            )


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
    attention: str = "auto"  # the kernel of whole rows; models/attention/choice.py says which "auto" is
    logit_chunk: int = 1024  # tokens whose logits are alive at once
    freeze_embed: bool = False  # embeddings stay as they were loaded: no gradient, no optimizer moments
    unroll: bool = False  # layers written out: a third faster on a CPU; a scan compiles fast at any depth
    kv_heads: int | None = None  # None: as many as heads; fewer serve several query heads each
    head_dim: int | None = None  # None: width / heads
    norm: str = "layer"
    norm_eps: float = 1e-5
    norm_plus_one: bool = False  # scales are stored as their distance from one
    post_norms: bool = False  # what attention and MLP return is normed too
    qk_norm: bool = False  # queries and keys are normed, head by head
    positions: str = "learned"
    max_context: int | None = None  # the checkpoint's own, which an export keeps; None: context
    position_offset: int = 0  # rows of the position table before the first position's
    rope_theta: float = 10_000.0
    rope_local_theta: float | None = None  # of the layers with a window; None: rope_theta, scaled alike
    rope_share: float = 1.0  # of a head's channels, those that turn
    rope_scaling: RopeScaling | None = None
    window: int = 0  # a query reads this many keys, itself included; 0: all
    windowed: tuple[bool, ...] = ()  # which layers have the window; (): all
    activation: str = "gelu_tanh"
    gated: bool = False
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    parallel: bool = False  # attention and MLP read the same state, and are added to it together
    embed_scale: bool = False  # embeddings times sqrt(width)
    tied: bool = True  # the vocabulary head is the embedding
    attention_scale: float | None = None  # None: head_dim ** -0.5
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    family: str = "gpt2"  # whose names and config.json an export writes

    def __post_init__(self):
        for field, default in (("mlp", 4 * self.width), ("kv_heads", self.heads)):
            if getattr(self, field) is None:
                object.__setattr__(self, field, default)
        whole = ("vocab", "layers", "width", "heads", "context", "mlp", "logit_chunk", "kv_heads")
        for field in whole if self.head_dim is None else (*whole, "head_dim"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"model.{field} is {value!r}: it must be a whole number of at least 1")
            if value > LARGEST.get(field, 2**31 - 1):
                raise InputError(f"model.{field} is {value}: it is at most {LARGEST.get(field, 2**31 - 1)}")
        if self.head_dim is None:
            if self.width % self.heads:
                raise InputError(
                    f"model.width {self.width} is not a multiple of model.heads {self.heads}: change one"
                )
            object.__setattr__(self, "head_dim", self.width // self.heads)
        if isinstance(self.rope_scaling, dict):
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        object.__setattr__(self, "windowed", tuple(self.windowed))
        self._check()

    def _check(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is bool and not isinstance(value, bool):
                raise InputError(f"model.{field.name} is {value!r}: use true or false")
            if field.name in REALS and value is not None and not _positive(value):
                raise InputError(f"model.{field.name} is {value!r}: it must be a number above 0")
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 0:
            raise InputError(f"model.window is {self.window!r}: it must be a whole number, 0 for none")
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise InputError(
                    f"model.{field} is {getattr(self, field)!r}: use {' or '.join(map(repr, choices))}"
                )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"model.dropout is {self.dropout!r}: it must be in [0, 1)")
        if self.heads % self.kv_heads:
            raise InputError(
                f"model.heads {self.heads} is not a multiple of model.kv_heads {self.kv_heads}: change one"
            )
        if self.windowed and len(self.windowed) != self.layers:
            raise InputError(
                f"model.windowed has {len(self.windowed)} entries for {self.layers} layers: give one each"
            )
        if self.positions == "rope" and (self.rotary_dim < 2 or self.rotary_dim % 2):
            raise InputError(
                f"model.rope_share {self.rope_share} turns {self.rotary_dim} of {self.head_dim} channels: "
                "it must be an even number of them, at least 2"
            )

    @property
    def frozen(self) -> tuple[str, ...]:
        """The top-level names of the parameters that take no gradient."""
        return ("embed",) if self.freeze_embed else ()

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that turn with the position."""
        return int(self.head_dim * self.rope_share)

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding: `vocab` rounded up to whole tiles, so that it also divides over a mesh."""
        return -(-self.vocab // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


GPT3_VOCAB = 50257

VARIANTS: dict[str, dict] = {
    "tiny": dict(vocab=128, layers=2, width=32, heads=2, context=64, unroll=True),
    "lab": dict(vocab=1024, layers=4, width=128, heads=4, context=256, unroll=True),
    "lab_reward": dict(vocab=1024, layers=6, width=192, heads=6, context=256, unroll=True),
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
