"""The laws of a rollout: what the first minibatch must be, what padding and later tokens must not change."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instruct_jax.algorithms import ppo, rollout
from instruct_jax.algorithms.decode import SamplingConfig
from instruct_jax.algorithms.rollout import RolloutParams
from instruct_jax.batches import PromptBatch, Rollout
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.models.variants import variant

B, P, R, MINIBATCHES, EOS, PAD, KL_COEF = 8, 6, 8, 4, 2, 0, 0.1
CONFIG = ppo.PPOConfig(ptx_coef=0.0)
# Few tokens, so that untrained policies end some of their responses.
POLICY, SCALAR = PolicyModel(variant("tiny", vocab=8)), ScalarModel(variant("tiny", vocab=8))


@functools.cache
def trees():
    """Params of four different models; the noise makes their outputs far from uniform."""
    shape = jnp.zeros((1, 4), jnp.int32)

    @jax.jit
    def make(key):
        keys = jax.random.split(key, 8)
        models = (POLICY, POLICY, SCALAR, SCALAR)
        made = [model.init(k, shape, shape)["params"] for model, k in zip(models, keys[:4], strict=True)]
        noisy = [
            jax.tree.map(lambda x, k=k: x + 0.1 * jax.random.normal(k, x.shape), p)
            for p, k in zip(made, keys[4:])
        ]
        return RolloutParams(*noisy)

    return make(jax.random.key(0))


def prompts(pad_to=P):
    lengths = np.array([6, 1, 3, 4, 6, 2, 5, 3])
    mask = np.arange(P) >= P - lengths[:, None]
    tokens = np.where(mask, np.random.default_rng(0).integers(3, 8, (B, P)), PAD).astype(np.int32)
    more = ((0, 0), (pad_to - P, 0))
    return PromptBatch(
        np.pad(tokens, more, constant_values=PAD), np.pad(mask, more), np.arange(B, dtype=np.int32)
    )


@functools.cache
def responder():
    sampling = SamplingConfig(max_new_tokens=R)

    @jax.jit
    def respond_and_score(params, prompts, key):
        said = rollout.respond(POLICY, params.policy, prompts, key, sampling, CONFIG, EOS, PAD)
        return rollout.score_responses(
            POLICY, SCALAR, params, prompts, *said, CONFIG, KL_COEF, EOS, MINIBATCHES
        )

    return respond_and_score


@functools.cache
def scorer():
    return jax.jit(
        lambda params, prompts, response_BR, mask_BR: rollout.score_responses(
            POLICY, SCALAR, params, prompts, response_BR, mask_BR, CONFIG, KL_COEF, EOS, MINIBATCHES
        )
    )


@functools.cache
def losses():
    """Both losses with their gradients on every minibatch, as the update's scan will take them."""

    @jax.jit
    def run(policy_params, value_params, whole):
        def one(_, minibatch):
            return None, (
                ppo.policy_gradient(POLICY, policy_params, minibatch, None, CONFIG),
                ppo.value_gradient(SCALAR, value_params, minibatch, CONFIG),
            )

        return jax.lax.scan(one, None, rollout.split_minibatches(whole, jax.random.key(5), MINIBATCHES))[1]

    return run


def responses():
    """Random responses of lengths 1 to R, some ended by EOS, some cut at R."""
    generator = np.random.default_rng(1)
    lengths = np.array([8, 1, 3, 8, 5, 8, 2, 7])
    tokens = generator.integers(3, 8, (B, R)).astype(np.int32)
    ended = np.array([0, 1, 1, 1, 1, 0, 1, 1], bool)
    tokens[np.arange(B)[ended], lengths[ended] - 1] = EOS
    mask = np.arange(R) < lengths[:, None]
    return np.where(mask, tokens, PAD), mask, ended


def test_the_first_minibatches_have_ratio_one_no_kl_and_a_reward_that_is_the_score():
    params = trees()._replace(reference=trees().policy)
    whole, metrics = responder()(params, prompts(), jax.random.key(1))
    assert metrics["objective/kl"] == 0
    np.testing.assert_array_equal(np.sum(whole.rewards_BR, axis=1), whole.scores_B)
    np.testing.assert_allclose(metrics["objective/score_total"], metrics["objective/score"], rtol=1e-6)
    assert np.std(whole.scores_B) > 0 and np.all(np.std(whole.logprobs_BR, axis=1) > 0)
    (_, first), _ = losses()(params.policy, params.value, whole)
    for name, value in {
        "ratio_mean": 1,
        "ratio_max": 1,
        "ratio_var": 0,
        "approx_kl": 0,
        "clip_fraction": 0,
    }.items():
        np.testing.assert_array_equal(first[f"ppo/{name}"], value, err_msg=name)
    _, (_, second) = losses()(params.policy, params.value, whole)
    np.testing.assert_allclose(second["ppo/value_clip_fraction"], 0)


def test_another_policy_has_another_ratio():
    whole, _ = responder()(trees(), prompts(), jax.random.key(1))
    (_, metrics), _ = losses()(trees().reference, trees().value, whole)
    assert np.all(metrics["ppo/approx_kl"] > 1e-3)


def test_the_metrics_and_rewards_are_sums_over_the_rollout():
    whole, metrics = responder()(trees(), prompts(), jax.random.key(1))
    mask, response = np.asarray(whole.response_mask_BR), np.asarray(whole.response_BR)
    kl = np.where(mask, whole.logprobs_BR - whole.ref_logprobs_BR, 0).sum(axis=1)
    assert np.abs(kl).min() > 0
    has_eos = (mask & (response == EOS)).any(axis=1)
    assert 0 < has_eos.mean() < 1
    expected = {
        "objective/kl": kl.mean(),
        "objective/kl_coef": KL_COEF,
        "objective/entropy": -np.where(mask, whole.logprobs_BR, 0).sum(axis=1).mean(),
        "objective/score": np.mean(whole.scores_B),
        "objective/score_total": np.mean(whole.scores_B - KL_COEF * kl),
        "ppo/eos_rate": has_eos.mean(),
        "ppo/response_length": mask.sum(axis=1).mean(),
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    advantages, returns = ppo.gae(whole.rewards_BR, whole.values_BR, mask, CONFIG.gamma, CONFIG.lam)
    np.testing.assert_allclose(whole.advantages_BR, advantages, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole.returns_BR, returns, rtol=1e-4, atol=1e-5)


def test_what_stands_after_eos_changes_nothing():
    response, mask, _ = responses()
    garbage = np.where(mask, response, np.random.default_rng(7).integers(0, 8, (B, R))).astype(np.int32)
    assert (garbage != response).any()
    clean, clean_metrics = scorer()(trees(), prompts(), response, mask)
    dirty, dirty_metrics = scorer()(trees(), prompts(), garbage, mask)
    jax.tree.map(np.testing.assert_array_equal, clean_metrics, dirty_metrics)
    jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(clean, response_BR=garbage), dirty)
    # In the losses even nonsense in the stored arrays must not count.
    nonsense = {
        name: np.where(mask, getattr(clean, name), np.nan)
        for name in ("logprobs_BR", "values_BR", "rewards_BR", "advantages_BR", "returns_BR")
    }
    params = (trees().reference, trees().value)
    before = losses()(*params, clean)
    after = losses()(*params, dataclasses.replace(dirty, **nonsense))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), before, after)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_left_padding_changes_nothing():
    response, mask, _ = responses()
    narrow, _ = scorer()(trees(), prompts(), response, mask)
    wide, _ = scorer()(trees(), prompts(pad_to=P + 3), response, mask)
    for name in ("logprobs_BR", "ref_logprobs_BR", "values_BR", "scores_B", "rewards_BR", "advantages_BR"):
        np.testing.assert_allclose(
            getattr(narrow, name), getattr(wide, name), rtol=1e-4, atol=1e-5, err_msg=name
        )


class Positions:
    """A scalar model whose value at a position is that position, times its params."""

    def apply(self, variables, tokens_BT, segments_BT):
        return (
            jnp.broadcast_to(jnp.arange(tokens_BT.shape[1], dtype=jnp.float32), tokens_BT.shape)
            * variables["params"]
        )


class Uniform:
    """A policy that finds every token equally likely."""

    def apply(self, variables, tokens_BT, segments_BT, *, start, temperature, method):
        logprobs_BR = jnp.full((tokens_BT.shape[0], tokens_BT.shape[1] - start), variables["params"])
        return logprobs_BR, -logprobs_BR


class Tokens:
    """A scalar model whose value at a position is the token there."""

    def apply(self, variables, tokens_BT, segments_BT):
        return tokens_BT.astype(jnp.float32)


def score_with_stubs(config, eos=EOS, other=EOS, scalar=Positions):
    response, mask, ended = responses()
    response[1] = np.where(response[1] == EOS, other, response[1])
    params = RolloutParams(
        policy=jnp.float32(-2), reference=jnp.float32(-3), reward=jnp.float32(1), value=jnp.float32(10)
    )
    whole, metrics = rollout.score_responses(
        Uniform(), scalar(), params, prompts(), response, mask, config, 0.5, eos, pieces=2
    )
    return whole, metrics, mask, ended


def test_the_score_is_read_at_the_last_token_and_a_value_one_before_its_token():
    whole, metrics, mask, _ = score_with_stubs(CONFIG)
    np.testing.assert_array_equal(whole.scores_B, P + mask.sum(axis=1) - 1)
    np.testing.assert_array_equal(whole.values_BR, np.where(mask, 10 * (P - 1 + np.arange(R)), 0))
    np.testing.assert_array_equal(metrics["objective/kl"], mask.sum(axis=1).mean())


@pytest.mark.parametrize("stops", [dict(), dict(eos=(EOS,)), dict(eos=(EOS, 9), other=9)])
def test_a_response_that_never_ends_gets_the_fixed_score_whichever_stop_ends_the_others(stops):
    whole, metrics, mask, ended = score_with_stubs(
        dataclasses.replace(CONFIG, missing_eos_score=-1.0), **stops
    )
    np.testing.assert_array_equal(whole.scores_B, np.where(ended, P + mask.sum(axis=1) - 1, -1))
    np.testing.assert_allclose(
        np.sum(whole.rewards_BR, axis=1), whole.scores_B - 0.5 * mask.sum(axis=1), rtol=1e-6
    )
    assert metrics["ppo/eos_rate"] == ended.mean()


def test_the_reward_model_is_shown_the_stop_that_it_knows_whichever_ended_a_response():
    known, _, _, ended = score_with_stubs(CONFIG, scalar=Tokens)
    other, _, mask, _ = score_with_stubs(CONFIG, eos=(EOS, 9), other=9, scalar=Tokens)
    assert ended[1] and other.response_BR[1][mask[1]][-1] == 9
    np.testing.assert_array_equal(other.scores_B, known.scores_B)
    assert other.scores_B[1] == EOS


def test_whitened_rewards_keep_their_mean_and_leave_the_metrics_alone():
    plain, plain_metrics, mask, _ = score_with_stubs(CONFIG)
    white, white_metrics, _, _ = score_with_stubs(dataclasses.replace(CONFIG, whiten_rewards=True))
    before, after = np.asarray(plain.rewards_BR)[mask], np.asarray(white.rewards_BR)[mask]
    np.testing.assert_allclose(after.mean(), before.mean(), rtol=1e-5)
    np.testing.assert_allclose(after.var(), 1, rtol=1e-4)
    assert plain_metrics["objective/score_total"] == white_metrics["objective/score_total"]


def numbered(rows):
    """A rollout every leaf of which says its row's number."""
    row = np.arange(rows, dtype=np.float32)
    leaves = {
        field.name: row if field.name == "scores_B" else row[:, None] for field in dataclasses.fields(Rollout)
    }
    return Rollout(**leaves)


def test_512_episodes_become_8_minibatches_of_64_each_row_once_and_whole():
    split = rollout.split_minibatches(numbered(512), jax.random.key(0), 8)
    assert split.scores_B.shape == (8, 64) and split.rewards_BR.shape == (8, 64, 1)
    rows = np.asarray(split.scores_B)
    np.testing.assert_array_equal(np.sort(rows.ravel()), np.arange(512))
    for leaf in jax.tree.leaves(split):
        np.testing.assert_array_equal(np.asarray(leaf).reshape(8, 64), rows)
    other = rollout.split_minibatches(numbered(512), jax.random.key(1), 8)
    assert (np.asarray(other.scores_B) != rows).any()
    assert len(np.unique(rows[0] % 8)) > 1


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="minibatches"):
        rollout.split_minibatches(numbered(10), jax.random.key(0), 4)


@pytest.mark.parametrize("wrong", [{"temperature": 0.7}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.9}])
def test_sampling_that_log_probs_would_not_describe_is_refused(wrong):
    sampling = SamplingConfig(**{"max_new_tokens": R, **wrong})
    with pytest.raises(InputError, match=next(iter(wrong))):
        rollout.respond(POLICY, trees().policy, prompts(), jax.random.key(0), sampling, CONFIG, EOS, PAD)
