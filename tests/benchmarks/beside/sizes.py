"""The sizes that can be measured: one Qwen2 shape and one amount of work for everybody; imported in every environment."""

import dataclasses

STAGES = ("sft", "rm", "decode", "ppo", "ppo_ptx", "phases")
DTYPES = ("float32", "bfloat16", "bfloat16_weights")


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and its batches. A row is `prompt` + `response` tokens; SFT and PPO take `rows` of them a step, RM `rows` completions,
    `completions` of a prompt; `steps` are the training steps of a timed round."""

    vocab: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    tied: bool
    rows: int
    prompt: int
    response: int
    steps: int
    completions: int = 2

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.prompt + self.response

    @property
    def blocks(self) -> int:
        """Parameters of all layers' matrices."""
        head = self.width // self.heads
        attention = 2 * self.width * head * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.mlp)

    @property
    def parameters(self) -> int:
        """All parameters of the language model: matrices, biases of queries, keys and values, norms."""
        biases = self.layers * self.width // self.heads * (self.heads + 2 * self.kv_heads)
        norms = (2 * self.layers + 1) * self.width
        return self.blocks + biases + norms + (1 if self.tied else 2) * self.vocab * self.width

    @property
    def scalar_parameters(self) -> int:
        """All parameters of a reward or value model without a bias of its head."""
        return self.parameters - (0 if self.tied else self.vocab * self.width) + self.width

    def config_json(self) -> dict:
        """The config.json of Hugging Face's Qwen2, without ids of special tokens."""
        return {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": self.vocab, "num_hidden_layers": self.layers,
            "hidden_size": self.width, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.mlp, "max_position_embeddings": 2 * self.length, "tie_word_embeddings": self.tied,
            "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "hidden_act": "silu", "use_sliding_window": False, "attention_dropout": 0.0,
            "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
        }  # fmt: skip

    def tokens(self, seed: int, rows: int, length: int):
        """Random token ids i32[rows, length], the same for everybody; 0 to 2 are left for padding and ends."""
        import numpy as np

        return np.random.default_rng(seed).integers(3, self.vocab, (rows, length), dtype=np.int32)


SIZES = {
    "tiny": Size(vocab=128, layers=2, width=32, heads=4, kv_heads=2, mlp=64, tied=False, rows=4, prompt=4, response=6, steps=2),
    "17m": Size(vocab=8192, layers=6, width=384, heads=6, kv_heads=6, mlp=1024, tied=False, rows=32, prompt=32, response=64, steps=3),
    # SmolLM2-135M's
    "135m": Size(vocab=49152, layers=30, width=576, heads=9, kv_heads=3, mlp=1536, tied=True, rows=32, prompt=32, response=64, steps=1),
}  # fmt: skip
