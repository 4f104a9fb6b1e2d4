"""The home of facts about the machine: its processes, platform, speed, memory, library versions and the compile cache.

The paper names no hardware beyond petaflop/s-days; these numbers let a run say what it ran on.
"""

import functools
import importlib.metadata
import os
import platform as host
import resource
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from instruct_jax import __version__
from instruct_jax.errors import InputError

HEARTBEAT_SECONDS = 30  # how long a silent process is waited for before the others abort (status 134)
SHUTDOWN_SECONDS = 45  # how long one that ends waits for the others: a dead one is found before
PATIENCE_SECONDS = 20  # how long the others are waited for at the start before a line says so
LEAVE_SECONDS = 5  # how long one that failed waits for the others to come to the same error
CACHE_VARIABLE = "INSTRUCT_JAX_CACHE"
GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """A TPU as JAX sees it: one device. Peaks are per second.

    `hbm_bytes` is what the compiler lets a program have; `ici_bytes` is one way over one link, and a device has a link in both
    directions of each of the `torus` dimensions that its slice has. A device is `share` of the chip that is paid for.
    """

    name: str
    hbm_bytes: float
    bf16_flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    torus: int
    share: float = 1.0
    megacore: bool = False  # two cores that a compiler setting makes one device


# Sources. Products, memory's bandwidth, links: docs.cloud.google.com/tpu/docs/{v4, v5e, v5p, v6e, tpu7x}, "key specifications" (a v4's
# links: the next). One way over one link is the bidirectional bandwidth of a chip there / ports / 2 (v5e 400 GB/s over 4, v5p 1,200 over
# 6, v6e 800 over 4, tpu7x 1,200 over 6) less a tenth, which gives the 4.5e10 and 9e10 of jax-ml.github.io/scaling-book/tpus.
# hbm_bytes: the limit in libtpu 0.0.50's own message about a program that is too large.
CHIPS = {
    "v4": Chip("TPU v4", 30.75 * GIB, 275e12, 1.2e12, 45e9, 3, megacore=True),
    "v5e": Chip("TPU v5e", 15.75 * GIB, 197e12, 0.819e12, 45e9, 2),
    "v5p": Chip("TPU v5p", 95.73 * GIB, 459e12, 2.765e12, 90e9, 3),
    "v6e": Chip("TPU v6e", 31.24 * GIB, 918e12, 1.638e12, 90e9, 2),
    "tpu7x": Chip(
        "TPU7x (Ironwood), one of its two dies", 94.74 * GIB, 1153.5e12, 3.69e12, 90e9, 3, share=0.5
    ),
}

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def libtpu_version() -> str | None:
    """The version of the TPU compiler that is installed, None where there is none."""
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return None


def _on_tpu() -> bool:
    """Whether this is a machine with TPU chips that JAX is going to use."""
    if os.environ.get("JAX_PLATFORMS", "tpu") not in ("tpu", "tpu,cpu"):
        return False
    return libtpu_version() is not None and any(
        [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    )


def start_distributed(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Join the other processes of this run, if it has any; to be called before anything asks JAX for a device.

    Who they are is told by the arguments (`coordinator` is process 0's host:port), which come all three or not at all
    (InputError); else by SLURM, where srun started more than one task; else by the metadata of a TPU VM.
    """
    explicit = (coordinator, processes, process)
    if any(given is not None for given in explicit):
        if None in explicit or ":" not in coordinator or not 0 <= process < processes:
            raise InputError(
                "--coordinator HOST:PORT, --processes N and --process I (0 to N - 1) go together; "
                f"got {coordinator}, {processes} and {process}"
            )
        _join(*explicit, cluster_detection_method="deactivate")
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # one process, one GPU
        _join(cluster_detection_method="slurm")
    elif _on_tpu():
        _join()


def _join(*who, **how) -> None:
    """Start JAX's service of processes. It ends this process by itself where the others do not come within five minutes."""
    place = f"at {who[0]}" if who else "of this job"
    waiting = (
        f"still waiting for the other processes {place}: start the same command on every host, and see that process 0 "
        "runs and that its port can be reached from the others"
    )
    timer = threading.Timer(PATIENCE_SECONDS, print, (waiting,), dict(file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            *who,
            **how,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    finally:
        timer.cancel()


def leave(status: int) -> None:
    """End a process that failed, one of several, without waiting for those that did not fail; returns where there is one alone.

    The others may come to the same error a little later. Process 0 goes last, because the rest abort when it is gone.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(LEAVE_SECONDS * (2 if jax.process_index() == 0 else 1))
    os._exit(status)


def platform(mesh: jax.sharding.Mesh | None = None) -> str:
    """'cpu', 'gpu' or 'tpu': that of the mesh's devices (ahead-of-time meshes too), else of this process."""
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return device.platform


def prepare_to_compile_ahead() -> None:
    """Set what JAX and libtpu read of the environment so that they compile without TPUs; to be called before JAX is asked for a device.

    Several processes may then compile at once: libtpu's lock keeps them from sharing chips, and there are none.
    """
    jax.config.update("jax_platforms", "cpu")
    wanted = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    for name, value in (wanted | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_STDERR_LOG_LEVEL": "3"}).items():
        os.environ.setdefault(name, value)


def topology(name: str) -> tuple[list, Chip]:
    """(devices, what each of them is) of a TPU slice that need not exist, such as 'v5p:8x8x8'; what is wrong is an InputError."""
    kind, colon, shape = name.partition(":")
    if kind not in CHIPS:
        raise InputError(
            f"topology {name!r}: no such chip; there are {', '.join(CHIPS)}, as in v5e:4x4 or v5p:8x8x8 (for a newer one, add its peaks to "
            "devices.CHIPS)"
        )
    chip, sizes = CHIPS[kind], shape.split("x")
    if not colon or not all(size.isdigit() and int(size) for size in sizes) or len(sizes) != chip.torus:
        example = "x".join("4" * chip.torus)
        raise InputError(f"topology {name!r}: give {kind} {chip.torus} sizes, as in {kind}:{example}")
    if libtpu_version() is None:
        raise InputError("compiling for TPUs needs libtpu: run `bash launch/setup.sh --tpu`")
    from jax.experimental import topologies

    settings = {"chip_config_name": "megacore"} if chip.megacore else {}
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **settings).devices
    except Exception as error:
        raise InputError(f"topology {name!r}: {_no_slice(kind, sizes, error)}") from error
    return list(devices), chip


def _no_slice(kind: str, sizes: list[str], error: Exception) -> str:
    """Why libtpu gave no devices, and the next step: the sides are wrong, or libtpu cannot be used."""
    told = (str(error).splitlines() or [type(error).__name__])[0]
    if any(int(size) % 2 for size in sizes[:2]):  # a host has 2 x 2 chips
        sides = ("2x2", "2x4", "4x4", "8x16") if len(sizes) == 2 else ("2x2x1", "2x2x4", "4x4x4", "8x8x8")
        known = ", ".join(f"{kind}:{each}" for each in sides)
        return f"libtpu does not know it: its first two sides must be even, as in {known} ({told})"
    return (
        f"libtpu {libtpu_version()} cannot be used for it ({told}): run `bash launch/setup.sh --tpu`, which installs "
        "the one that belongs to this JAX"
    )


def matmul_gflops(size: int = 1024, dtype="float32", repeats: int = 5) -> float:
    """GFLOP/s of a size x size matrix product on the first device, the best of `repeats`."""
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best / 1e9


# What a TPU calls itself, on a machine or in a topology.
KINDS = {
    "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e", "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}  # fmt: skip


def peak_flops(mesh: jax.sharding.Mesh, dtype) -> tuple[float, str]:
    """(operations a second of products that the mesh's devices could do at the most, where that is from): a TPU's data sheet, else the
    fastest of a few products of this `dtype` made here and now. To be called outside jax.set_mesh, whose every device would join in."""
    kind = mesh.devices.flat[0].device_kind
    if kind in KINDS:
        return CHIPS[KINDS[kind]].bf16_flops * mesh.size, "data sheet, bfloat16"
    found = _measured_flops(platform(mesh), jnp.dtype(dtype).name)
    # The devices of a CPU are shares of the same cores, which one product has all to itself.
    return found * (jax.process_count() if platform(mesh) == "cpu" else mesh.size), (
        f"measured here, {jnp.dtype(dtype).name}"
    )


@functools.cache
def _measured_flops(kind: str, dtype: str) -> float:
    return 1e9 * matmul_gflops(1024 if kind == "cpu" else 8192, dtype)


def peak_rss_bytes() -> int:
    """The most memory this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB, macOS bytes


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that decide a run's numbers."""
    found = {"python": host.python_version(), "instruct_jax": __version__}
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES}


def cache_dir() -> Path | None:
    """Where compiled programs are kept: $INSTRUCT_JAX_CACHE ("off" for nowhere), else the user's cache folder."""
    asked = os.environ.get(CACHE_VARIABLE, "")
    if asked == "off":
        return None
    if asked:
        return Path(asked).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "instruct_jax"


def enable_compile_cache(path: Path | None) -> None:
    """Keep compiled programs under `path` from now on (None: leave JAX as it is); JAX_COMPILATION_CACHE_DIR wins."""
    if path is None or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def malloc_hint() -> str | None:
    """A line of advice when this is a Linux CPU run without huge pages (measured 1.15 to 1.3 x), else None."""
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or platform() != "cpu":
        return None
    return "hint: on CPU, GLIBC_TUNABLES=glibc.malloc.hugetlb=1 (set by launch/env.sh) trains 1.15 to 1.3 x faster"
