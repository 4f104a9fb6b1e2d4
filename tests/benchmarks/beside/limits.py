"""What the machine can do, measured, and the least time that a phase of ours then needs: by its products or by the bytes it must move.

The products are counted from the jaxpr (instruct_jax/costs/flops). The bytes are the least that any implementation moves: an optimizer
step reads parameters, both moments and gradients and writes all but the gradients, in float32; a forward pass reads every matrix once; a
decoded token reads every matrix and the filled part of the cache. As a program: a worker that measures the machine in every round.
"""

import time
from typing import NamedTuple

from beside.sizes import Size
from beside.worker import Line

OPTIMIZER_BYTES = 7 * 4  # a parameter
SHARE = 256 << 20  # bytes of a device's array that is streamed through memory


class Work(NamedTuple):
    """Operations of products and bytes of memory that a phase cannot do without, and the tokens that it handles."""

    flops: float
    bytes: float
    tokens: int

    def plus(self, other: "Work") -> "Work":
        """Both, one after the other."""
        return Work(self.flops + other.flops, self.bytes + other.bytes, max(self.tokens, other.tokens))


def least_seconds(work, flops_per_second: float, bytes_per_second: float) -> tuple[float, str]:
    """The seconds below which a phase cannot come, and what says so: "products" or "memory"."""
    products, memory = work[0] / flops_per_second, work[1] / bytes_per_second
    return (products, "products") if products >= memory else (memory, "memory")


def flops(call, *arguments) -> float:
    """Operations of the products of a jitted call."""
    import jax

    from instruct_jax.costs.flops import count

    return count(jax.make_jaxpr(call)(*arguments)).total


def training_bytes(parameters: int) -> float:
    """Of one optimizer step."""
    return float(OPTIMIZER_BYTES * parameters)


def matrix_bytes(size: Size, number: int, vocabulary: bool) -> float:
    """Of every matrix of a forward pass once, `number` bytes a parameter; with or without the vocabulary head."""
    return float(number * (size.blocks + (size.vocab * size.width if vocabulary else 0)))


def decode_bytes(size: Size, number: int) -> float:
    """Of all tokens of a response after the first: matrices, and the keys and values of the tokens before."""
    turns = size.response - 1
    read = sum(size.prompt + n for n in range(1, size.response))
    cache = size.rows * read * 2 * size.layers * size.kv_heads * (size.width // size.heads) * number
    return turns * matrix_bytes(size, number, vocabulary=True) + cache


def measure(dtype: str, edge: int = 2048, share: int = SHARE) -> dict[str, float]:
    """{"flops": of a matrix product, "bytes": read and written}, per second, the better of one device and all at once."""
    import jax
    import jax.numpy as jnp

    devices = jax.devices()
    multiply, add, total = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1, donate_argnums=0), jax.jit(jnp.sum)
    squares = [jax.device_put(jnp.ones((edge, edge), dtype), device) for device in devices]
    streams = [jax.device_put(jnp.ones(share // 4, jnp.float32), device) for device in devices]

    def rate(call, arrays, work: float, repeats: int = 4) -> float:
        best = 0.0
        for _ in range(repeats):
            start = time.perf_counter()
            out = jax.block_until_ready([call(x) for x in arrays])
            best = max(best, work * len(arrays) / (time.perf_counter() - start))
            if call is add:
                arrays[:] = out
        return best

    square = 2.0 * edge**3
    found = {"flops": max(rate(lambda x: multiply(x, x), squares[:n], square) for n in {1, len(devices)})}
    read, copied = rate(total, streams, share), rate(add, streams, 2 * share)
    return {**found, "bytes": max(read, copied)}


def main():
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", required=True)
    dtype = parser.parse_args().dtype
    line = Line()
    measure(dtype)
    line.reply(parameters=0, versions={})
    line.serve(lambda: measure(dtype))


if __name__ == "__main__":
    main()
