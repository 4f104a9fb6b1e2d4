"""Home of parameters and train states on a mesh: their shapes, how they lie there, fresh ones, frozen copies, the step's layout."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from instruct_jax.errors import InputError
from instruct_jax.models import layers
from instruct_jax.models.heads import init_head
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.sharding import fetched, in_host_memory, param_shardings
from instruct_jax.training.state import TrainState, init_state

STATE_PARTS = {"optimizer": "opt_state", "average": "ema"}  # what of a train state can lie in host memory


def init_params(model: PolicyModel | ScalarModel, key):
    """Fresh parameters; traceable."""
    ones = jnp.ones((1, 2), jnp.int32)
    return model.init(key, ones, ones)["params"]


def abstract_params(model: PolicyModel | ScalarModel):
    """Shapes of the parameters."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def layout(tree, mesh, offload: tuple[str, ...] = ()):
    """The rule table's shardings of parameters or a train state on `mesh`; those parts of a state that `offload` names lie in host
    memory (its scalars stay)."""
    away = {STATE_PARTS[name] for name in offload if name in STATE_PARTS}

    def put(path, leaf, sharding):
        parts = {getattr(entry, "name", None) for entry in path}
        return in_host_memory(sharding) if leaf.ndim and parts & away else sharding

    return jax.tree_util.tree_map_with_path(put, tree, param_shardings(tree, mesh))


def _with_layout(tree, shardings):
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def sharded(tree, mesh, offload: tuple[str, ...] = ()):
    """Shapes of `tree` with their `layout`."""
    return _with_layout(tree, layout(tree, mesh, offload))


def check_offload(offload: tuple[str, ...], parts: tuple[str, ...]) -> None:
    """InputError for a name in train.offload that is none of `parts`."""
    for name in offload:
        if name not in parts:
            raise InputError(
                f"train.offload has {name!r}: this stage can keep {', '.join(parts)} in host memory"
            )


def check_at_least_1(train, *fields: str) -> None:
    """InputError for a count of the section train that is below 1."""
    for field in fields:
        if getattr(train, field) < 1:
            raise InputError(f"train.{field} is {getattr(train, field)}: it must be at least 1")


def frozen(params, model: PolicyModel | ScalarModel, offload: tuple[str, ...] = ()):
    """A copy of parameters that no optimizer will move, kernels in the model's own number type; in host memory where `offload` names the
    "frozen"."""

    def copy(params):
        return jax.tree.map(jnp.copy, layers.compute_dtype(params, model.config))

    return jax.jit(copy, out_shardings=_frozen_layout(params, offload))(params)


def _frozen_layout(params, offload):
    if "frozen" not in offload:
        return jax.tree.map(lambda x: x.sharding, params)
    return jax.tree.map(lambda x: in_host_memory(x.sharding) if x.ndim else x.sharding, params)


def abstract_frozen(model: PolicyModel | ScalarModel, mesh, offload: tuple[str, ...] = ()):
    """Shapes and layout of what `frozen` returns."""
    params = sharded(abstract_params(model), mesh)
    copied = jax.eval_shape(lambda params: layers.compute_dtype(params, model.config), params)
    return _with_layout(copied, _frozen_layout(params, offload))


def _sum_of_bits(leaf):
    """A sum over the bits of all numbers, each weighed by its place: modulo 2^32, so that no layout or order changes it."""
    leaf = fetched(leaf)
    bits = jax.lax.bitcast_convert_type(leaf, {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize])
    bits = bits.astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    return ((bits ^ (bits >> 15)) * (place * 2 + 1)).sum(dtype=jnp.uint32)


def fingerprint(params) -> str:
    """A short name of parameters by which to know them again, the same on every mesh; under jax.set_mesh."""
    # A leaf at a time: what lies in host memory may not fit the devices at once.
    one = jax.jit(_sum_of_bits, out_shardings=jax.sharding.PartitionSpec())
    sums = np.array([one(leaf) for leaf in jax.tree.leaves(params)], "<u4")
    return hashlib.sha256(sums.tobytes()).hexdigest()[:16]


def as_scalar(policy_params, key):
    """A reward model's parameters from a policy's: the vocabulary head becomes a fresh scalar head (paper 3.5)."""
    width = policy_params["embed"]["tokens"].shape[1]
    shared = {name: part for name, part in policy_params.items() if name != "unembed"}
    return {**shared, "head": init_head(key, width)}


def fresh_state(make_params, tx, mesh, offload: tuple[str, ...] = ()) -> TrainState:
    """A train state made on the mesh from `make_params()`, without ever lying whole on one device."""

    def make():
        return init_state(make_params(), tx)

    return jax.jit(make, out_shardings=layout(jax.eval_shape(make), mesh, offload))()


def state_from(params, tx, mesh, ema: bool = False, offload: tuple[str, ...] = ()) -> TrainState:
    """A train state around parameters that lie on the mesh already, whose buffers it may take over."""

    def make(params):
        return init_state(params, tx, ema)

    return jax.jit(make, out_shardings=layout(jax.eval_shape(make, params), mesh, offload))(params)


def abstract_state(model, tx, mesh, offload: tuple[str, ...] = (), ema: bool = False) -> TrainState:
    """Shapes and layout of a train state."""
    state = jax.eval_shape(lambda params: init_state(params, tx, ema), abstract_params(model))
    return sharded(state, mesh, offload)


def jit_step(step, abstract_state, mesh, offload: tuple[str, ...] = ()):
    """The compiled form of step(state, ...) → (state, ...): state donated, layout pinned, so that it compiles once."""
    return jax.jit(step, donate_argnums=0, out_shardings=(layout(abstract_state, mesh, offload), None))
