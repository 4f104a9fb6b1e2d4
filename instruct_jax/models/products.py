"""The home of products of a few rows with matrices that lie [out, in], such as the embedding: what a generated token costs."""

import jax
from jax import lax

from instruct_jax.sharding import mesh_device, splits_tokens


def times_rows(x_XD: jax.Array, rows_VD: jax.Array, dtype=None) -> jax.Array:
    """x @ rows.T in `dtype` (None: that of x); [X, V]."""
    contracted = (((1,), (1,)), ((), ()))
    if not reads_rows():
        return lax.dot_general(x_XD, rows_VD, contracted, preferred_element_type=dtype)
    # The matrix first: XLA's CPU kernels then read it once, row by row. The barrier keeps XLA from swapping the two back.
    y_VX = lax.dot_general(rows_VD, x_XD, contracted, preferred_element_type=dtype)
    return lax.optimization_barrier(y_VX).T


def reads_rows() -> bool:
    """Whether the devices of jax.set_mesh's mesh are fastest with matrices that lie [out, in]: CPUs are."""
    device = mesh_device()
    return device is not None and device.platform == "cpu" and not splits_tokens()
