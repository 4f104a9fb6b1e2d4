"""Home of the bench that finished models are measured on: the shapes, the tokenizer and the mesh of a run, with the programs compiled
for them, each made once."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import ml_collections
import numpy as np

from instruct_jax.algorithms.decode import SamplingConfig
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.sharding import batch_devices, check_divides, fetch
from instruct_jax.stages import inference, setup
from instruct_jax.stages.settings import section


@dataclasses.dataclass(frozen=True)
class Contender:
    """A model to evaluate: a checkpoint folder, the subtree of its parameters, its step (None: last), a prefix's name or none."""

    checkpoint: str
    subtree: str = "params"
    step: int | None = None
    prefix: str | None = None
    raw: bool = False


class Bench:
    """Loads models, samples from them, scores what they say, and measures KL and loss on documents."""

    def __init__(self, config: ml_collections.ConfigDict, batch_size: int):
        self.batch_size = batch_size
        self.text = section(config, "text", setup.TextSettings)
        self.mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
        check_divides(batch_size, self.mesh, "config.evaluate.batch_size")
        self.tokenizer = setup.load_tokenizer(self.text)
        self.plain = setup.template(self.text.template, self.tokenizer)
        vocab = self.tokenizer.vocab_size
        self.policy = PolicyModel(setup.transformer(section(config, "model", setup.ModelSettings), vocab))
        self.scalar = ScalarModel(
            setup.transformer(section(config, "reward_model", setup.ModelSettings), vocab)
        )
        self.key = jax.random.key(config.seed)
        self._samplers: dict = {}
        self.score = inference.make_scorer(
            self.scalar, self.tokenizer, self.mesh, width=self.text.max_prompt + self.text.max_response + 16,
            batch_size=batch_size,
        )  # fmt: skip
        self.logprobs = inference.make_logprobs(
            self.policy, self.tokenizer, self.mesh, max_prompt=self.text.max_prompt, max_response=self.text.max_response,
            batch_size=batch_size,
        )  # fmt: skip
        self._nll = inference.make_nll(self.policy)

    def load(self, contender: Contender):
        """Its parameters on the mesh."""
        return setup.load(
            contender.checkpoint, self.policy, self.mesh, name=contender.subtree, step=contender.step
        )

    def sampler(self, max_prompt: int, max_new_tokens: int, temperature: float) -> Callable:
        """A compiled sampler, made once per shape."""
        asked = (max_prompt, max_new_tokens, temperature)
        if asked not in self._samplers:
            sampling = SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature)
            self._samplers[asked] = inference.make_sampler(
                self.policy,
                sampling,
                self.tokenizer,
                self.mesh,
                max_prompt=max_prompt,
                batch_size=self.batch_size,
            )
        return self._samplers[asked]

    def kl(self, params, reference, texts: Sequence[str], sampled, temperature: float) -> np.ndarray:
        """Log-ratio of every sampled response, policy to reference: its mean is the KL in nats per response."""
        own, other = (self.logprobs(p, texts, sampled, self.plain, temperature) for p in (params, reference))
        return own - other

    def document_losses(self, params, documents: Sequence[str], length: int) -> list[tuple[float, int]]:
        """Loss in nats and the number of its tokens for the first `length` tokens of every document, in front of which stands BOS or,
        where there is none, EOS."""
        first = self.tokenizer.eos_id if self.tokenizer.bos_id is None else self.tokenizer.bos_id
        ids = [[first, *row][:length] for row in self.tokenizer.encode_batch(documents)]
        found, devices = [], batch_devices(self.mesh)
        size = min(self.batch_size, max(-(-len(ids) // devices), 1) * devices)
        for start in range(0, len(ids), size):
            chosen = ids[start : start + size]
            rows = inference.right_padded(chosen, size, length, self.tokenizer.pad_id)
            nats_B, tokens_B = self._nll(params, *setup.put(rows, self.mesh))
            found += zip(fetch(nats_B).tolist(), fetch(tokens_B).tolist(), strict=True)
        return found[: len(ids)]
