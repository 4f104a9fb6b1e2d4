"""The train steps as the stages compile them: paper-value shapes, one compile, and a mesh that changes nothing."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from instruct_jax import sharding
from instruct_jax.batches import PromptBatch, RankingBatch, TokenBatch
from instruct_jax.data.packing import RankingPacker
from instruct_jax.data.streams import WHOLE
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.sharding import param_shardings, place
from instruct_jax.stages import setup, speed, states, train_lm, train_ppo, train_rm
from instruct_jax.stages.ahead import work as ahead
from instruct_jax.training.optim import OptimizerConfig
from instruct_jax.training.state import init_state

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)


def test_ppo_warms_up_over_iterations_and_not_over_optimizer_steps():
    config = ppo_config()
    config.policy_optimizer.warmup_steps = 3
    config.train.inner_epochs = 2  # two minibatches twice: four optimizer steps an iteration
    rate = train_ppo.build(config, None, eos_id=0, pad_id=0).schedules["ppo/policy_learning_rate"]
    peak, start = config.policy_optimizer.learning_rate, 0.1
    expected = [peak * (start + (1 - start) * min(step // 4, 3) / 3) for step in range(16)]
    np.testing.assert_allclose([rate(step) for step in range(16)], expected, rtol=1e-6)


def test_the_train_step_of_a_model_with_dropout_drops_out_by_its_key():
    _, config, (batch, *_) = lm_case()
    mesh, losses = setup.open_mesh(setup.MeshSettings(data=1)), {}
    for dropout in (0.0, 0.5):
        config.model.dropout = dropout
        with jax.set_mesh(mesh):
            step = train_lm.programs(config, mesh)["train_step"][0]
            for seed in (0, 1):
                _, metrics = step(
                    state_of(train_lm, config, mesh), setup.put(batch, mesh), jax.random.key(seed)
                )
                losses[dropout, seed] = float(metrics["lm/loss"])
    assert losses[0.0, 0] == losses[0.0, 1]
    assert len({losses[0.0, 0], losses[0.5, 0], losses[0.5, 1]}) == 3


SMALL = dict(
    seed=0,
    text=dict(tokenizer="", template="plain", max_prompt=12, max_response=8),
    model=dict(variant="tiny", context=32, vocab=128),
    reward_model=dict(variant="tiny", context=32, vocab=128),
)
# An epsilon far above the gradients' rounding, so that Adam does not blow rounding up to whole steps.
ADAM = dict(learning_rate=1e-2, eps=1e-2)


def tokens(*shape):
    return RNG.integers(3, 128, shape).astype(np.int32)


def lm_case():
    config = ConfigDict(
        SMALL | dict(data=dict(dir="", kind="documents", batch_size=8), optimizer=ADAM, train=dict(steps=1))
    )
    segments = np.ones((8, 20), np.int32)
    segments[:, 15:] = 0
    return train_lm, config, [TokenBatch(tokens(8, 20), segments, segments > 0) for _ in range(3)]


def rm_case():
    config = ConfigDict(
        SMALL | dict(data=dict(dir="", batch_size=8, k_max=2), optimizer=ADAM, train=dict(epochs=1))
    )
    segments = np.repeat([[1] * 8 + [2] * 8 + [0] * 4], 16, 0).astype(np.int32)
    rows, columns = np.arange(16).reshape(8, 2).astype(np.int32), np.full((8, 2), 15, np.int32)
    ranks = RNG.integers(1, 3, (8, 2)).astype(np.int32)
    ranks[0] = 1, 2
    return train_rm, config, [RankingBatch(tokens(16, 20), segments, rows, columns, ranks) for _ in range(3)]


def shared_rm_case():
    _, config, _ = rm_case()
    config.data.shared_prompts = True
    lengths = np.tile([14, 12], (8, 1))
    starts = np.cumsum(lengths).reshape(8, 2) - lengths
    ranks = np.array([[1, 2], [2, 1]] * 4)
    batches = []
    for _ in range(3):
        texts = tokens(lengths.sum())
        for n in range(8):  # both of a prompt's completions begin with it
            texts[starts[n, 1] : starts[n, 1] + 8] = texts[starts[n, 0] : starts[n, 0] + 8]
        packer = RankingPacker(texts, np.full(8, 8), starts, lengths, ranks, 60, 0, 1, True)
        batches.append(packer.batch(np.arange(8), np.ones(8, bool), packer.places(np.arange(8)), 8, WHOLE))
    return train_rm, config, batches


def ppo_config():
    optimizer = ADAM | dict(schedule="constant", warmup_steps=2)
    train = dict(episodes=48, batch_size=16, minibatch_size=8, ptx_ratio=1, ptx_length=20, ema_decay=0.9)
    return ConfigDict(
        SMALL
        | dict(policy_optimizer=optimizer, value_optimizer=optimizer, ppo=dict(ptx_coef=1.0), train=train)
    )


def state_of(module, config, mesh):
    """A train state like the stage's own, placed on the mesh, the same for every mesh."""
    abstract = module.programs(config, mesh)["train_step"][1][0]
    model = (PolicyModel if module is train_lm else ScalarModel)(
        setup.transformer(setup.ModelSettings(**config.model.to_dict()))
    )
    params = states.init_params(model, jax.random.key(1))
    tx = setup_tx(config)
    return place(init_state(params, tx), jax.tree.map(lambda x: x.sharding, abstract))


def kinds(tree):
    """In which memories a tree lies."""
    return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree)}


def setup_tx(config):
    from instruct_jax.training.optim import make_optimizer

    return make_optimizer(OptimizerConfig(**config.optimizer.to_dict()), 1000)


def same_up_to_rounding(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=2e-4)


PLAIN = setup.MeshSettings(data=2, fsdp=2, tensor=2)
LONG = setup.MeshSettings(fsdp=2, tensor=2, sequence=2)


@pytest.mark.parametrize(
    "case,eight,offload",
    [
        (lm_case, PLAIN, ()),
        (lm_case, LONG, ("optimizer",)),
        (rm_case, PLAIN, ()),
        (rm_case, LONG, ()),
        (shared_rm_case, LONG, ()),
    ],
)
def test_a_step_on_eight_devices_is_the_step_on_one_and_compiles_once(case, eight, offload):
    module, config, batches = case()
    results = []
    for sizes in (setup.MeshSettings(), eight):
        mesh = setup.open_mesh(sizes)
        config.train.offload = offload if mesh.size > 1 else ()
        config.train.guard = dict(action="skip" if config.train.offload else "stop")
        with jax.set_mesh(mesh):
            step = module.programs(config, mesh)["train_step"][0]
            state = state_of(module, config, mesh)
            before = jax.tree.map(np.asarray, state.params)
            for i, batch in enumerate(batches):
                state, metrics = step(state, setup.put(batch, mesh), jax.random.key(i))
            assert step._cache_size() == 1
            assert kinds(state.opt_state) == (
                {"device", "pinned_host"} if config.train.offload else {"device"}
            )
            moved = max(
                float(abs(np.asarray(x) - y).max())
                for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(before))
            )
            assert moved > 1e-3
            results.append(jax.tree.map(np.asarray, (state.params, metrics)))
    same_up_to_rounding(*results)


def test_pieces_that_do_not_divide_over_the_mesh_are_refused():
    config = ppo_config()
    config.train.rollout_size = 2
    with pytest.raises(InputError, match="batch of 2 rows does not divide"):
        train_ppo.programs(config, setup.open_mesh(setup.MeshSettings(data=2, fsdp=2, tensor=2)))


IN_PIECES = dict(rollout_size=8, refill=True, microbatch_size=4, ptx_microbatch_size=4, inner_epochs=2)


@pytest.mark.parametrize(
    "pieces,eight,offload", [({}, LONG, ()), (IN_PIECES, PLAIN, ("optimizer", "average", "frozen"))]
)
def test_a_ppo_iteration_on_eight_devices_is_the_one_on_one_and_compiles_once(pieces, eight, offload):
    config = ppo_config()
    config.train.update(pieces)
    results = []
    for sizes in (setup.MeshSettings(), eight):
        mesh = setup.open_mesh(sizes)
        config.train.offload = offload if mesh.size > 1 else ()
        p = train_ppo.build(config, None, eos_id=2, pad_id=0)
        with jax.set_mesh(mesh):
            policy, scalar = (
                states.init_params(m, jax.random.key(i)) for i, m in enumerate((p.policy, p.scalar))
            )
            policy, scalar = (place(x, param_shardings(x, mesh)) for x in (policy, scalar))
            away = p.train.offload
            frozen = jax.tree.map(lambda x: x + 0.01, policy), scalar
            frozen = [states.frozen(*of, away) for of in zip(frozen, (p.policy, p.scalar), strict=True)]
            state = train_ppo.PPOState(
                states.state_from(
                    jax.tree.map(jax.numpy.copy, policy), p.policy_tx, mesh, ema=True, offload=away
                ),
                states.state_from(jax.tree.map(jax.numpy.copy, scalar), p.value_tx, mesh, offload=away),
                jax.numpy.float32(0.02),
            )
            iteration, compiled = train_ppo.make_iteration(
                p, *frozen, mesh, train_ppo.abstract_state(p, mesh)
            )
            rng = np.random.default_rng(1)
            for i in range(2):
                drawn = rng.integers(3, 128, (16, 12)).astype(np.int32)
                prompts = PromptBatch(drawn, np.ones((16, 12), bool), np.arange(16, dtype=np.int32))
                rows = np.ones((16 * p.train.inner_epochs, 20), np.int32)
                ptx = TokenBatch(rng.integers(3, 128, rows.shape).astype(np.int32), rows, rows > 0)
                batch = setup.put(train_ppo.IterationBatch(prompts, ptx), mesh)
                state, _, _ = iteration(state, batch, jax.random.key(i))
            assert [program._cache_size() for program in compiled.values()] == [1, 1, 1]
            # Two iterations of two minibatches, each taken once an inner epoch.
            assert int(state.policy.step) == int(state.value.step) == 4 * p.train.inner_epochs
            for tree in (state.policy.opt_state, state.policy.ema, state.value.opt_state, *frozen):
                assert ("pinned_host" in kinds(tree)) == bool(away)
            assert kinds((state.policy.params, state.value.params)) == {"device"}
            results.append(
                jax.tree.map(np.asarray, (state.policy.params, state.policy.ema, state.value.params))
            )
    same_up_to_rounding(*results)


def forward(config, rows, length, predicted):
    """Operations of a pass with all of attention's square, of which the formula counts half, and the padded vocabulary."""
    attention = 2.0 * config.layers * config.width * length * rows * length
    return (
        ahead.forward(config, rows, length)
        + attention
        + 2.0 * config.width * config.padded_vocab * rows * predicted
    )


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_steps_operations_are_those_of_a_model_that_computes_nothing_twice(remat):
    _, config, (batch, *_) = lm_case()
    model = PolicyModel(setup.transformer(setup.ModelSettings(**config.model.to_dict(), remat=remat)))
    tx = setup_tx(config)
    step = train_lm.make_step(speed.without_remat(model), tx, lambda step: 0.0)
    state = jax.eval_shape(lambda: init_state(states.init_params(model, jax.random.key(0)), tx))
    work = speed.of_step(step, (1e9, "by hand"))(state, batch, jax.random.key(0))
    assert work.flops({}) == 3 * forward(model.config, 8, 20, 19)
    assert (work.tokens, work.peak) == (8 * 20, 1e9)


def test_an_iterations_operations_are_of_what_was_sampled_and_ptx_has_its_share_of_the_update():
    p, mesh = train_ppo.build(ppo_config(), None, eos_id=2, pad_id=0), setup.open_mesh(setup.MeshSettings())
    B, P, R, rows = 16, 12, 8, np.ones((16, 20), np.int32)
    prompts = PromptBatch(rows[:, :P], rows[:, :P] > 0, np.arange(B, dtype=np.int32))
    batch = train_ppo.IterationBatch(prompts, TokenBatch(rows, rows, rows > 0))
    with jax.set_mesh(mesh):
        state = train_ppo.abstract_state(p, mesh)
        frozen = [
            jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), s.params) for s in (state.policy, state.value)
        ]
        iteration, _ = train_ppo.make_iteration(p, *frozen, mesh, state)
        work = speed.of_iteration(iteration, R, (1e9, "by hand"))(state, batch, jax.random.key(0))
    config = p.policy.config
    # One token's row by itself, which reads the whole cache.
    token = forward(config, 1, 1, 1) + 4.0 * config.layers * config.width * (P + R - 1)
    assert work.flops({"ppo/response_length": 1.0}) + B * (R - 1) * token == work.flops(
        {"ppo/response_length": float(R)}
    )
    said, judged, ptx = forward(config, B, P + R, R), forward(config, B, P + R, 0), forward(config, B, 20, 19)
    prefill = forward(config, B, P, 0) + 2.0 * config.width * config.padded_vocab * B
    assert work.flops({"ppo/response_length": 1.0}) == prefill + 5 * (said + judged) + 3 * ptx
    assert work.parts == {"update": {"ptx": 3 * ptx / (3 * (said + judged + ptx))}}
    assert work.tokens == B * (P + R) + 16 * 20


class Unread:
    """A result that the devices have not computed yet: whoever looks at it would wait."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} of a result that is not there")

    __float__ = __bool__ = __iter__ = __array__ = __getattr__


class Sent:
    """The module jax as a stage sees it, whose programs are only noted; each gives so many results."""

    def __init__(self):
        self.order = []

    def __getattr__(self, name):
        return getattr(jax, name)

    def jit(self, function, **_):
        name = function.__name__
        made = {
            "rollout": lambda: (Unread(), Unread()),
            "scoring": lambda: (Unread(), {"objective/kl": Unread()}),
            "update_and_adapt": lambda: ("the next state", {"ppo/loss": Unread()}),
        }[name]

        def send(*_):
            self.order.append(name)
            return made()

        return send


def test_an_iteration_is_sent_whole_with_no_result_read_or_waited_for(monkeypatch):
    sent, told = Sent(), []
    monkeypatch.setattr(train_ppo, "jax", sent)
    monkeypatch.setattr(states, "jax", sent)
    p, mesh = train_ppo.build(ppo_config(), None, eos_id=2, pad_id=0), setup.open_mesh(setup.MeshSettings())
    iteration, _ = train_ppo.make_iteration(p, None, None, mesh, train_ppo.abstract_state(p, mesh))
    state, metrics, _ = iteration(
        SimpleNamespace(policy=SimpleNamespace(params=0), value=SimpleNamespace(params=0), kl_coef=0),
        train_ppo.IterationBatch(None, None), jax.random.key(0), lambda name, result: told.append(name),
    )  # fmt: skip
    assert state == "the next state" and set(metrics) == {"objective/kl", "ppo/loss"}
    assert sent.order == ["rollout", "scoring", "update_and_adapt"] and told == [
        "rollout",
        "scoring",
        "update",
    ]


def test_programs_are_the_ones_that_the_stage_runs_and_none_reads_data():
    mesh = setup.open_mesh(setup.MeshSettings())
    with jax.set_mesh(mesh):
        assert set(train_ppo.programs(ppo_config(), mesh)) == {"rollout", "scoring", "update"}
    assert "tensorflow" not in sys.modules


def test_every_stop_of_the_checkpoint_ends_ppos_responses(monkeypatch, tmp_path):
    seen = []

    def build(config, vocab, eos_id, pad_id):
        seen.append(eos_id)
        raise InputError("enough")

    monkeypatch.setattr(train_ppo, "build", build)
    tokenizer = SimpleNamespace(vocab_size=128, eos_id=2, stop_ids=(2, 5), pad_id=0)
    monkeypatch.setattr(setup, "load_tokenizer", lambda text: tokenizer)
    with pytest.raises(InputError, match="enough"):
        train_ppo.run(ConfigDict(ppo_config().to_dict() | {"mesh": {}}), tmp_path)
    assert seen == [(2, 5)]


def test_ppo_without_an_average_holds_none_and_is_evaluated_as_it_is():
    mesh = setup.open_mesh(setup.MeshSettings())
    for decay, subtree in ((0.9, "policy/ema"), (None, "policy/params")):
        given = ppo_config().to_dict()
        config = ConfigDict({**given, "train": {**given["train"], "ema_decay": decay}})
        pieces = train_ppo.build(config, None, eos_id=0, pad_id=0)
        assert (train_ppo.abstract_state(pieces, mesh).policy.ema is None) == (decay is None)
        assert pieces.train.subtree == subtree


def test_what_cannot_be_kept_in_host_memory_is_refused_by_name(monkeypatch):
    with pytest.raises(
        InputError, match="train.offload has 'frozen': this stage can keep optimizer in host memory"
    ):
        train_lm.TrainSettings(steps=1, offload=("frozen",))
    with pytest.raises(InputError, match="'moments': this stage can keep optimizer, average, frozen"):
        train_ppo.TrainSettings(8, 8, 8, offload=("moments",))
    monkeypatch.setattr(sharding, "HOST_MEMORY", "attic")
    module, config, _ = lm_case()
    config.train.offload = ("optimizer",)
    with pytest.raises(InputError, match="cpu devices have no attic memory; leave train.offload empty"):
        module.programs(config, setup.open_mesh(setup.MeshSettings()))
