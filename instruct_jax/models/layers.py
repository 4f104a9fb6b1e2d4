"""The home of one transformer layer and of its parameters, for every family: norms, projections, MLP, residuals.

The switches are TransformerConfig's; their defaults are GPT-3's layer (pre-LN, tanh-GELU, biases).
"""

import math
from operator import itemgetter

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from instruct_jax.models.products import reads_rows, times_rows
from instruct_jax.models.rope import rotate
from instruct_jax.models.variants import TransformerConfig
from instruct_jax.sharding import splits_tokens

ACTIVATIONS = {
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "relu": nn.relu,
    "silu": nn.silu,
}


def block(x_BTD, layer, attention, config: TransformerConfig, dropout_key=None, angles=None):
    """One layer; `attention(q, k, v)` returns its output [B, H, T, C] and whatever the caller wants to keep."""
    keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
    normed_BTD = norm(x_BTD, layer["attention_norm"], config)
    mixed_BTD, kept = _attend(normed_BTD, layer, attention, config, angles)
    mixed_BTD = _dropout(_after(mixed_BTD, layer, "attention_post_norm", config), config.dropout, keys[0])
    if config.parallel:
        mlp_BTD = _mlp(norm(x_BTD, layer["mlp_norm"], config), layer, config)
        return x_BTD + mixed_BTD + _dropout(mlp_BTD, config.dropout, keys[1]), kept
    x_BTD = x_BTD + mixed_BTD
    mlp_BTD = _mlp(norm(x_BTD, layer["mlp_norm"], config), layer, config)
    mlp_BTD = _dropout(_after(mlp_BTD, layer, "mlp_post_norm", config), config.dropout, keys[1])
    return x_BTD + mlp_BTD, kept


def norm(x, params, config: TransformerConfig):
    """LayerNorm or RMSNorm over the last axis, computed in f32; in the dtype of x."""
    shape = (1,) * (x.ndim - 1) + (-1,)
    scale = params["scale"].reshape(shape) + (1.0 if config.norm_plus_one else 0.0)
    x32 = x.astype(jnp.float32)
    if config.norm == "rms":
        inverse = lax.rsqrt(jnp.square(x32).mean(axis=-1, keepdims=True) + config.norm_eps)
        return (x32 * inverse * scale).astype(x.dtype)
    centred = x32 - x32.mean(axis=-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + config.norm_eps)
    return (centred * inverse * scale + params["bias"].reshape(shape)).astype(x.dtype)


def _attend(x_BTD, layer, attention, config, angles):
    B, T, _ = x_BTD.shape

    def heads(name):
        return dense(x_BTD, layer[name]).reshape(B, T, -1, config.head_dim).swapaxes(1, 2)

    # Three products: on a CPU that is a tenth faster than slicing a fused one.
    q_BHTC, k_BGTC, v_BGTC = heads("q"), heads("k"), heads("v")
    if config.qk_norm:
        q_BHTC, k_BGTC = norm(q_BHTC, layer["q_norm"], config), norm(k_BGTC, layer["k_norm"], config)
    if angles is not None:
        q_BHTC, k_BGTC = rotate(q_BHTC, angles), rotate(k_BGTC, angles)
    mixed_BHTC, kept = attention(q_BHTC, k_BGTC, v_BGTC)
    return dense(mixed_BHTC.swapaxes(1, 2).reshape(B, T, -1), layer["out"]), kept


def _mlp(x_BTD, layer, config):
    activate = ACTIVATIONS[config.activation]
    if config.gated:
        return dense(activate(dense(x_BTD, layer["gate"])) * dense(x_BTD, layer["up"]), layer["down"])
    return dense(activate(dense(x_BTD, layer["up"])), layer["down"])


def _after(x_BTD, layer, name, config):
    return norm(x_BTD, layer[name], config) if config.post_norms else x_BTD


def dense(x_BTD, params):
    """x @ kernel (+ bias); the kernel as it is, or turned by `rollout_layout`."""
    # Tokens in two dimensions: with three, XLA:CPU copies and transposes for the weight's gradient. Not where they lie over
    # `sequence`: no layout of flat tokens says which half of every row a device has.
    x = x_BTD if splits_tokens() else x_BTD.reshape(-1, x_BTD.shape[-1])
    if "turned" in params:
        y = times_rows(x, params["turned"].astype(x.dtype))
    else:
        y = lax.dot_general(x, params["kernel"].astype(x.dtype), (((x.ndim - 1,), (0,)), ((), ())))
    if "bias" in params:
        y = y + params["bias"].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    return y.reshape(*x_BTD.shape[:2], -1)


def _dropout(x, rate, key):
    if key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0).astype(x.dtype)


def init_norm(config: TransformerConfig, *shape) -> dict:
    """A norm that changes nothing but the scale of its input."""
    params = {"scale": jnp.zeros(shape) if config.norm_plus_one else jnp.ones(shape)}
    return {**params, "bias": jnp.zeros(shape)} if config.norm == "layer" else params


def init_layers(key, config: TransformerConfig) -> dict:
    """All layers' parameters, stacked on axis N: N(0, 0.02), what enters the residual over sqrt(2 N), biases 0."""
    N, D, F, C = config.layers, config.width, config.mlp, config.head_dim
    qkv, out, up, down = jax.random.split(key, 4)
    into_residual = 0.02 / math.sqrt(2 * N)

    def dense_params(kernel, bias):
        return {"kernel": kernel, "bias": jnp.zeros((N, kernel.shape[-1]))} if bias else {"kernel": kernel}

    def normal(key, std, *shape):
        return std * jax.random.normal(key, (N, *shape))

    kernels_N3DX = normal(qkv, 0.02, 3, D, config.heads * C)
    columns = {"q": config.heads * C, "k": config.kv_heads * C, "v": config.kv_heads * C}
    layers = {
        name: dense_params(kernels_N3DX[:, i, :, :size], config.qkv_bias)
        for i, (name, size) in enumerate(columns.items())
    }
    if config.gated:
        up, gate = jax.random.split(up)
        layers["gate"] = dense_params(normal(gate, 0.02, D, F), config.mlp_bias)
    layers |= {
        "out": dense_params(normal(out, into_residual, config.heads * C, D), config.out_bias),
        "up": dense_params(normal(up, 0.02, D, F), config.mlp_bias),
        "down": dense_params(normal(down, into_residual, F, D), config.mlp_bias),
    }
    norms = ["attention_norm", "mlp_norm"]
    norms += ["attention_post_norm", "mlp_post_norm"] if config.post_norms else []
    layers |= {name: init_norm(config, N, D) for name in norms}
    return layers | (
        {name: init_norm(config, N, C) for name in ("q_norm", "k_norm")} if config.qk_norm else {}
    )


def remat(body, config: TransformerConfig):
    """`body` recomputed in the backward pass as config.remat says."""
    if config.remat == "none":
        return body
    policies = jax.checkpoint_policies
    policy = (
        policies.nothing_saveable if config.remat == "full" else policies.dots_with_no_batch_dims_saveable
    )
    return jax.checkpoint(body, policy=policy, prevent_cse=config.unroll)


def unstacked(params, config: TransformerConfig) -> list | None:
    """The layers one by one, for a model that is written out (config.unroll); None for one that scans over the stack."""
    if not config.unroll:
        return None
    return [jax.tree.map(itemgetter(n), params["layers"]) for n in range(config.layers)]


def rollout_layout(params, config: TransformerConfig) -> list | None:
    """`unstacked` as a loop over tokens reads it, many times over: on a CPU with every kernel turned, [out, in]."""
    layers_N = unstacked(params, config)
    if layers_N is None or not reads_rows():
        return layers_N

    def turned(part):
        if "kernel" not in part:
            return part
        return {"turned": part["kernel"].T, **{name: x for name, x in part.items() if name != "kernel"}}

    return [{name: turned(part) for name, part in layer.items()} for layer in layers_N]


def compute_dtype(params, config: TransformerConfig):
    """The parameters with the layers' kernels as the products read them, in config.dtype: nothing that is computed changes, and
    they take half the memory in bfloat16. For models that are not trained."""

    def cast(path, leaf):
        return leaf.astype(config.dtype) if path[-1].key == "kernel" else leaf

    return {**params, "layers": jax.tree_util.tree_map_with_path(cast, params["layers"])}
