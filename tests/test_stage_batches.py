"""What the training stages read: batches that lie on any mesh, and a validation of each stream by itself."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from instruct_jax.batches import TokenBatch
from instruct_jax.errors import InputError
from instruct_jax.records import Ranking, write_jsonl
from instruct_jax.sharding import batch_sharding
from instruct_jax.stages import lab_base, labeler_groups, setup, states, train_lm, train_rm

SMALL = dict(
    seed=0,
    text=dict(
        tokenizer=str(lab_base.ASSETS / "tokenizer.model"), template="plain", max_prompt=12, max_response=8
    ),
    model=dict(variant="tiny", context=32, vocab=1024),
    optimizer=dict(learning_rate=1e-2),
)


def test_validation_is_of_each_stream_by_itself_in_one_program(monkeypatch, tiny_model, tiny_params):
    traced, lm_loss = [], train_lm.lm_loss
    monkeypatch.setattr(train_lm, "lm_loss", lambda *given: traced.append(given) or lm_loss(*given))
    rng, segments = np.random.default_rng(2), np.ones((2, 20), np.int32)
    means, streams = [], []
    for targets in (3, 19):
        batches = [
            TokenBatch(
                rng.integers(3, 100, (2, 20), np.int32), segments, segments * np.arange(20) >= 20 - targets
            )
            for _ in range(2)
        ]
        streams.append(SimpleNamespace(at=lambda i, share, batches=batches: batches[i]))
        found = [
            tiny_model.apply({"params": tiny_params}, b.tokens_BT, segments, method="logprobs")[0][
                :, -targets:
            ]
            for b in batches
        ]
        means.append(-np.mean(found))
    mesh = setup.open_mesh(setup.MeshSettings())
    with jax.set_mesh(mesh):
        evaluate = train_lm._validation(tiny_model, streams, 2, mesh)
        found = evaluate(SimpleNamespace(params=tiny_params), 1)
    assert found == pytest.approx({"valid/loss": means[0], "valid/pretraining_loss": means[1]}, rel=1e-5)
    assert abs(means[0] - means[1]) > 1e-2 and len(traced) == 1


class Stopped(Exception):
    pass


def test_a_reward_models_batches_lie_on_a_mesh_that_does_not_divide_8(monkeypatch, tmp_path):
    found = []

    def fit(step, state, batch_at, **_):
        found.append(batch_at(0))
        raise Stopped

    rankings = [Ranking(f"p{i}", "name", "l", ["a b c d", "e"], [1, 2], ["m"] * 2) for i in range(3)]
    monkeypatch.setattr(train_rm.builders, "open_source", lambda *_: rankings)
    monkeypatch.setattr(setup, "load", lambda _, model, mesh: states.init_params(model, jax.random.key(0)))
    monkeypatch.setattr(train_rm, "fit", fit)
    data, train = dict(dir="", batch_size=3, k_max=2), dict(epochs=1)
    config = ConfigDict(SMALL | dict(name="rm", init="", mesh=dict(data=3), data=data, train=train))
    with pytest.raises(Stopped):
        train_rm.run(config, tmp_path)
    mesh = setup.open_mesh(setup.MeshSettings(data=3))
    _, (_, assumed, _) = train_rm.programs(config, mesh)["train_step"]
    assert found[0].tokens_XT.shape == assumed.tokens_XT.shape == (24, 20)
    assert found[0].tokens_XT.sharding.is_equivalent_to(batch_sharding(mesh), 2)


def test_a_reward_model_sees_each_ranking_once_and_is_compiled_ahead_with_shared_prompts(
    monkeypatch, tmp_path
):
    found = []

    def fit(step, state, batch_at, total_steps, **_):
        found.extend(batch_at(i) for i in range(total_steps))
        raise Stopped

    rankings = [Ranking(f"p{i}", "name", "l", ["a b c d", "e"], [1, 2], ["m"] * 2) for i in range(7)]
    monkeypatch.setattr(train_rm.builders, "open_source", lambda *_: rankings)
    monkeypatch.setattr(setup, "load", lambda _, model, mesh: states.init_params(model, jax.random.key(0)))
    monkeypatch.setattr(train_rm, "fit", fit)
    data = dict(dir="", batch_size=4, k_max=2, shared_prompts=True)
    config = ConfigDict(
        SMALL | dict(name="rm", init="", mesh=dict(data=1), data=data, train=dict(epochs=1.0))
    )
    with pytest.raises(Stopped):
        train_rm.run(config, tmp_path)
    assert [int((batch.ranks_BK > 0).sum()) for batch in found] == [8, 6]
    mesh = setup.open_mesh(setup.MeshSettings(data=1))
    _, (_, assumed, _) = train_rm.programs(config, mesh)["train_step"]
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (found[0], assumed))
    assert shapes[0] == shapes[1] and assumed.tokens_XT.shape == (8, 60)
    config.model.attention = "splash"
    with pytest.raises(InputError, match="config.data.shared_prompts and config.model.attention = 'splash'"):
        train_rm.check(config)


def test_a_validation_batch_that_does_not_divide_over_the_mesh_is_refused_before_data_is_read_and_ahead(
    tmp_path,
):
    data, train = dict(dir="", kind="documents", batch_size=8, valid_batch_size=3), dict(steps=1)
    config = ConfigDict(SMALL | dict(mesh=dict(data=2), data=data, train=train))
    with pytest.raises(InputError, match="config.data.valid_batch_size: a batch of 3 rows does not divide"):
        train_lm.run(config, tmp_path)
    with pytest.raises(InputError, match="config.data.valid_batch_size: a batch of 3 rows does not divide"):
        train_lm.programs(config, setup.open_mesh(setup.MeshSettings(data=2)))


def test_a_scoring_batch_of_the_labeler_groups_that_does_not_divide_is_refused_before_a_fold_trains(tmp_path):
    rankings = [Ranking(f"p{i}", "name", f"l{i}", ["a", "b"], [1, 2], ["m"] * 2) for i in range(2)]
    write_jsonl(tmp_path / "rankings.jsonl", rankings)
    groups = dict(
        rankings=(str(tmp_path / "rankings.jsonl"),), prompts=(), groups=2, held_out=0.5, batch_size=3
    )
    named = dict(name="groups", init="", mesh=dict(data=2), data=dict(dir="", batch_size=2, k_max=2))
    config = ConfigDict(SMALL | named | dict(train=dict(epochs=1.0), groups=groups, stage="labeler_groups"))
    with pytest.raises(InputError, match="config.groups.batch_size: a batch of 3 rows does not divide"):
        labeler_groups.run(config, tmp_path)
