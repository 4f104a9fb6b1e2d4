"""The home of counting products: floating-point operations of matrix products in a jaxpr, with the turns of its loops.

XLA's own count takes a loop's body once. This one multiplies by the turns, and counts what is computed again in a backward pass.
What is not a product (softmax, norms, sampling, attention of one query a head, which is multiplied and summed) is left out.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.extend import core


class Flops(NamedTuple):
    """Operations of products, 2 for each multiply-add, over all chips: in loops that may end early (decoding), and elsewhere."""

    loop: float = 0.0
    rest: float = 0.0

    @property
    def total(self) -> float:
        return self.loop + self.rest


def count(jaxpr, scope: str | None = None) -> Flops:
    """The operations of a (closed) jaxpr, or those under jax.named_scope(`scope`), their gradients among them. A `while` is taken to run
    to the limit in its condition, a `cond` by its dearest branch."""
    return _walk(getattr(jaxpr, "jaxpr", jaxpr), {}, scope)


def programs(jaxpr) -> dict:
    """{name: jaxpr} of the jitted functions that a host function's jaxpr calls."""
    called = [eqn.params for eqn in jaxpr.jaxpr.eqns if "name" in eqn.params and "jaxpr" in eqn.params]
    return {params["name"]: params["jaxpr"] for params in called}


def turns(eqn, known: dict | None = None) -> int:
    """The most turns that a `while` equation takes: the limit that its condition compares a counter with, less where that starts.

    1 where the condition compares with no constant. `known` holds the values of scalars outside, where they are constants.
    """
    cond = eqn.params["cond_jaxpr"].jaxpr
    for test in cond.eqns:
        if test.primitive.name != "lt" or not isinstance(test.invars[1], core.Literal):
            continue
        limit, counter = int(test.invars[1].val), test.invars[0]
        if counter not in cond.invars:
            return limit
        place = cond.invars.index(counter) - eqn.params["cond_nconsts"]
        outside = eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
        start = _value(eqn.invars[outside + place], known or {}) if place >= 0 else 0
        return max(limit - (start or 0), 0)
    return 1


def _walk(jaxpr, known: dict, scope: str | None) -> Flops:
    loop = rest = 0.0
    for eqn in jaxpr.eqns:
        found = _of(eqn, known, scope)
        loop, rest = loop + found.loop, rest + found.rest
        _learn(eqn, known)
    return Flops(loop, rest)


def _of(eqn, known: dict, scope: str | None) -> Flops:
    name, params = eqn.primitive.name, eqn.params
    if scope and scope in str(eqn.source_info.name_stack):
        scope = None  # all that it calls is
    if name == "dot_general" and scope is None:
        (contracted, _), _ = params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return Flops(
            rest=2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        )
    inner = [_walk(jaxpr, {}, scope) for jaxpr in _inner(params)]
    if not inner:
        return Flops()
    if name == "while":
        return Flops(loop=turns(eqn, known) * sum(part.total for part in inner))
    if name == "cond":
        return max(inner, key=lambda part: part.total)
    times = 1
    if name == "scan":
        times = params["length"]
    elif name == "shard_map":  # its body is one device's share
        times = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    elif name == "pallas_call":
        times = math.prod(params["grid_mapping"].grid)
    return Flops(times * sum(part.loop for part in inner), times * sum(part.rest for part in inner))


def _inner(params: dict):
    """The jaxprs among an equation's parameters."""
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def _learn(eqn, known: dict) -> None:
    """Keeps the value of a scalar that is made of constants."""
    values = [_value(var, known) for var in eqn.invars]
    if not eqn.outvars or getattr(eqn.outvars[0].aval, "shape", None) != () or None in values or not values:
        return
    match eqn.primitive.name:
        case "add":
            known[eqn.outvars[0]] = values[0] + values[1]
        case "broadcast_in_dim" | "convert_element_type" | "copy":
            known[eqn.outvars[0]] = values[0]


def _value(var, known: dict) -> int | None:
    """The whole number that a variable is known to be."""
    if not isinstance(var, core.Literal):
        return known.get(var)
    whole = var.aval.shape == () and jnp.issubdtype(var.aval.dtype, jnp.integer)
    return int(var.val) if whole else None
