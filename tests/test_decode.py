"""The laws of generation: what is sampled, by which randomness, and where a response ends."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from reference import logits as reference_logits

from instruct_jax.algorithms.decode import SamplingConfig, choose, draw, generate, likeliest, truncate
from instruct_jax.batches import PromptBatch
from instruct_jax.errors import InputError
from instruct_jax.models import layers
from instruct_jax.sharding import make_mesh

B, P, R = 3, 6, 5
EOS, PAD = 2, 0


def prompts(pad=(0, 2, 4), rows=B, seed=0):
    tokens = np.random.default_rng(seed).integers(3, 100, (rows, P)).astype(np.int32)
    mask = np.arange(P)[None] >= np.array(pad)[:, None]
    return PromptBatch(np.where(mask, tokens, PAD), mask, np.arange(rows, dtype=np.int32))


@pytest.fixture(scope="module")
def sample(tiny_model, tiny_params):
    call = jax.jit(
        lambda batch, key, sampling: generate(tiny_model, tiny_params, batch, key, sampling, EOS, PAD),
        static_argnums=2,
    )
    return lambda batch, seed=0, **options: tuple(
        np.asarray(x)
        for x in call(batch, jax.random.key(seed), SamplingConfig(**{"max_new_tokens": R, **options}))
    )


def scripted(token_of, calls=None, vocab=8):
    """A model that says token_of(row, step) with certainty; `calls` collects one entry per decode."""

    def apply(_, tokens, *rest, method):
        cache = rest[1] if method == "prefill" else rest[0]
        step = 0 if method == "prefill" else cache.length
        if method == "decode" and calls is not None:
            jax.debug.callback(lambda: calls.append(1))
        rows = jnp.arange(tokens.shape[0])
        logits = jnp.where(jnp.arange(vocab)[None] == token_of(rows, step)[:, None], 0.0, -1e30)
        return logits, dataclasses.replace(cache, length=jnp.int32(step + 1))

    config = SimpleNamespace(layers=1, kv_heads=1, head_dim=1, dtype="float32", unroll=False)
    return SimpleNamespace(config=config, apply=apply)


def test_greedy_is_the_argmax_of_the_full_forward(sample, tiny_model, tiny_params):
    batch = prompts()
    response, mask = sample(batch, temperature=0.0)
    tokens = np.concatenate([batch.tokens_BP, response], 1)
    segments = np.concatenate([batch.mask_BP, mask], 1).astype(int)
    best = reference_logits(tiny_params, tokens, segments, tiny_model.config)[:, P - 1 : -1].argmax(-1)
    np.testing.assert_array_equal(response[mask], best[mask])
    assert mask[:, 0].all()


def test_kernels_that_lie_turned_on_a_cpu_say_the_same(sample, tiny_model, tiny_params):
    batch, sampling = prompts(), SamplingConfig(R, temperature=0.0)
    expected = sample(batch, temperature=0.0)
    assert "kernel" in layers.rollout_layout(tiny_params, tiny_model.config)[0]["q"]
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        turned = layers.rollout_layout(tiny_params, tiny_model.config)[1]["up"]
        np.testing.assert_array_equal(turned["turned"], tiny_params["layers"]["up"]["kernel"][1].T)
        found = jax.jit(lambda p: generate(tiny_model, p, batch, jax.random.key(0), sampling, EOS, PAD))(
            tiny_params
        )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_left_padding_never_changes_a_generation(sample):
    short = prompts(pad=(2, 2, 2))
    shifted = PromptBatch(
        np.roll(short.tokens_BP, -2, 1)[:, : P - 2], np.ones((B, P - 2), bool), short.index_B
    )
    noise = PromptBatch(np.where(short.mask_BP, short.tokens_BP, 77), short.mask_BP, short.index_B)
    for batch in (shifted, noise):
        for one, other in zip(sample(short, seed=3), sample(batch, seed=3), strict=True):
            np.testing.assert_array_equal(one, other)


def test_each_key_brings_new_randomness_and_the_same_key_the_same(sample):
    one, again, other = sample(prompts(), 1), sample(prompts(), 1), sample(prompts(), 2)
    np.testing.assert_array_equal(one[0], again[0])
    assert (one[0] != other[0]).any()


def test_equal_rows_sample_differently_and_tokens_differ_in_time(sample):
    row = prompts(pad=(0,), rows=1)
    same = PromptBatch(*(np.repeat(x, 8, 0) for x in (row.tokens_BP, row.mask_BP, row.index_B)))
    response, _ = sample(same, temperature=100.0)
    assert len({tuple(r) for r in response}) == 8
    assert (response[:, 0] != response[:, 1]).any()


def test_a_row_samples_the_same_in_any_batch(sample):
    batch = prompts()
    first = PromptBatch(batch.tokens_BP[:2], batch.mask_BP[:2], batch.index_B[:2])
    np.testing.assert_array_equal(sample(batch, 4)[0][:2], sample(first, 4)[0])


def test_padding_of_the_vocabulary_is_never_sampled(sample):
    response, mask = sample(prompts(pad=(0,) * 64, rows=64), max_new_tokens=16, temperature=1e4)
    assert response.max() < 100 and response[mask].max() > 90


def test_eos_is_kept_and_only_pads_follow_it():
    ends = np.array([0, 2, 99])
    model = scripted(lambda rows, step: jnp.where(jnp.asarray(ends)[rows] == step, EOS, 5))
    response, mask = generate(
        model, {"layers": {}}, prompts(), jax.random.key(0), SamplingConfig(R), EOS, PAD
    )
    np.testing.assert_array_equal(response, [[2, 0, 0, 0, 0], [5, 5, 2, 0, 0], [5, 5, 5, 5, 5]])
    np.testing.assert_array_equal(mask, [[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def test_a_sampled_pad_token_is_a_real_token():
    model = scripted(lambda rows, step: jnp.where(step == 1, PAD, 5) + 0 * rows)
    response, mask = generate(
        model, {"layers": {}}, prompts(), jax.random.key(0), SamplingConfig(3), EOS, PAD
    )
    np.testing.assert_array_equal(response, [[5, 0, 5]] * B)
    assert mask.all()


@pytest.mark.parametrize("last, decodes", [(0, 0), (2, 2), (99, R - 1)])
def test_generation_stops_with_its_longest_row(last, decodes):
    calls = []
    model = scripted(lambda rows, step: jnp.where((rows < 2) | (step == last), EOS, 5), calls)
    jax.block_until_ready(
        generate(model, {"layers": {}}, prompts(), jax.random.key(0), SamplingConfig(R), EOS, PAD)
    )
    jax.effects_barrier()
    assert len(calls) == decodes


@given(st.integers(0, 99), st.sampled_from([1, 5, 128, 300]), st.integers(1, 4))
def test_greedy_takes_the_first_of_the_likeliest(seed, vocab, values):
    logits = np.random.default_rng(seed).integers(0, values, (4, vocab)).astype(np.float32)
    np.testing.assert_array_equal(likeliest(jnp.asarray(logits)), logits.argmax(-1))


def test_choose_samples_the_softmax_at_the_temperature():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    keys = jax.random.split(jax.random.key(0), 20_000)
    for temperature in (1.0, 0.5):
        tokens = choose(jnp.tile(logits, (20_000, 1)), keys, SamplingConfig(1, temperature=temperature))
        expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        np.testing.assert_allclose(np.bincount(tokens, minlength=4) / 20_000, expected, atol=0.012)


def test_a_vocabulary_of_many_blocks_is_sampled_as_its_softmax_says_and_never_where_it_is_nothing():
    rng = np.random.default_rng(0)
    logits = np.where(rng.random(300) < 0.3, -1e30, 2 * rng.standard_normal(300)).astype(np.float32)
    logits[128:256] = -1e30
    keys = jax.random.split(jax.random.key(1), 50_000)
    found = np.bincount(jax.jit(draw)(jnp.tile(logits, (50_000, 1)), keys), minlength=300)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum() * 50_000
    assert len(found) == 300 and not found[expected == 0].any()
    often = expected > 10
    chi_square = ((found - expected)[often] ** 2 / expected[often]).sum()
    assert chi_square < scipy.stats.chi2.ppf(0.999, often.sum())


def test_chunks_of_the_batch_sample_what_the_whole_does(tiny_model, tiny_params):
    batch = prompts(pad=(0, 2, 4, 1), rows=4)
    call = jax.jit(
        lambda chunks: generate(tiny_model, tiny_params, batch, jax.random.key(5), SamplingConfig(R), EOS, PAD, chunks),
        static_argnums=0,
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, call(2), call(1))
    with pytest.raises(InputError, match="4 prompts do not split into 3"):
        call(3)


@pytest.mark.parametrize(
    "options, kept",
    [
        (dict(top_k=1), [1]),
        (dict(top_k=2), [1, 3]),
        (dict(top_k=99), [0, 1, 2, 3]),
        (dict(top_p=0.45), [1]),
        (dict(top_p=0.55), [1, 3]),
        (dict(top_p=0.81), [0, 1, 3]),
        (dict(top_k=3, top_p=0.95), [0, 1, 3]),
    ],
)
def test_top_k_and_top_p_keep_the_right_tokens(options, kept):
    logits = jnp.log(jnp.array([[0.15, 0.5, 0.05, 0.3]]))
    out = np.asarray(truncate(logits, options.get("top_k", 0), options.get("top_p", 1.0)))[0]
    assert np.flatnonzero(out > -1e29).tolist() == kept
    np.testing.assert_array_equal(out[kept], np.asarray(logits)[0][kept])
    tokens = choose(
        jnp.tile(logits, (500, 1)), jax.random.split(jax.random.key(0), 500), SamplingConfig(1, **options)
    )
    assert set(np.unique(tokens)) == set(kept)


@given(st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=2), st.floats(0.05, 0.99))
def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(pair, top_p):
    logits = np.array([[*pair, 1.0, -1.0]], np.float32)
    probs = np.exp(logits[0] - logits[0].max()).astype(np.float64)
    probs /= probs.sum()
    kept = np.asarray(truncate(jnp.asarray(logits), 0, top_p))[0] > -1e29
    assert probs[kept].sum() >= top_p - 1e-5
    assert probs[kept].sum() - probs[kept].min() * (probs[kept] == probs[kept].min()).sum() < top_p + 1e-5


def test_bad_sampling_settings_are_named():
    for options in (
        dict(max_new_tokens=0),
        dict(temperature=-1.0),
        dict(top_k=-1),
        dict(top_p=0.0),
        dict(top_p=1.1),
    ):
        with pytest.raises(InputError, match=f"sampling.{next(iter(options))}"):
            SamplingConfig(**{"max_new_tokens": 1, **options})


def test_a_response_that_cannot_fit_the_context_is_refused(sample):
    with pytest.raises(InputError, match="model.context = 64"):
        sample(prompts(), max_new_tokens=60)
