"""Eight pretended CPU devices, a compile cache, and the tiny models that many tests share."""

import os
import re
import resource

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    + " --xla_force_host_platform_device_count=8"
)

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings

from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.models.variants import variant

CACHE = Path(__file__).parent.parent / ".cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
settings.register_profile("tests", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("tests")


@pytest.fixture
def file_limit():
    """A call that keeps every file to so many bytes from now on (None: no longer); a write beyond gets an error, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, before if size is None else (size, before[1]))

    yield limit
    limit(None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of one finished recipe, the smallest; not to be changed but by test_recipe."""
    from instruct_jax.main import main

    workdir = tmp_path_factory.mktemp("recipe") / "run"
    config = Path(__file__).parent / "configs" / "tiny_recipe.py"
    assert main(["main", "--config", str(config), "--workdir", str(workdir)]) == 0
    return workdir


def _random_params(model, seed):
    """Every parameter far from its start: initial weights are so small that a wrong mask would hardly show."""
    tokens = jnp.zeros((1, 4), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = 0.3 * rng.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(noise + 1 if path[-1].key == "scale" else noise)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def tiny_model():
    """A two-layer policy whose vocabulary (100) is smaller than its padded one (128)."""
    return PolicyModel(variant("tiny", vocab=100))


@pytest.fixture(scope="session")
def tiny_params(tiny_model):
    """Its parameters, all of them far from their initial zeros and ones."""
    return _random_params(tiny_model, 0)


@pytest.fixture(scope="session")
def tiny_scalar_model(tiny_model):
    """A reward or value model of the same size."""
    return ScalarModel(tiny_model.config)


@pytest.fixture(scope="session")
def tiny_scalar_params(tiny_scalar_model):
    """Its parameters."""
    return _random_params(tiny_scalar_model, 7)
