"""Home of what every stage begins with: the mesh, the model's shape, parameters from a checkpoint, the train step's layout."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp

from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.models.variants import TransformerConfig, variant
from instruct_jax.sharding import batch_sharding, make_mesh, param_shardings, place
from instruct_jax.text import loading
from instruct_jax.text.templates import TEMPLATES, Template, chat_template
from instruct_jax.text.tokenizer import Tokenizer
from instruct_jax.training.checkpoint import load_params
from instruct_jax.training.state import TrainState, init_state


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis; their product is how many devices are used. `data` -1: as many as there are."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """A named shape and what of it this stage changes; `vocab` None takes the tokenizer's."""

    variant: str
    context: int
    vocab: int | None = None
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    logit_chunk: int = 1024


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """How text becomes rows: the tokenizer's file, the template's name, and the limits in tokens."""

    tokenizer: str
    template: str
    max_prompt: int
    max_response: int


def open_mesh(settings: MeshSettings) -> jax.sharding.Mesh:
    """The mesh over the first devices; InputError where there are too few."""
    there, inner = jax.devices(), settings.fsdp * settings.tensor
    data = settings.data if settings.data != -1 else max(len(there) // inner, 1)
    needed = data * inner
    if needed > len(there):
        raise InputError(
            f"mesh {data} x {settings.fsdp} x {settings.tensor} needs {needed} devices, here are {len(there)}: "
            "lower mesh.data, mesh.fsdp or mesh.tensor"
        )
    return make_mesh(data, settings.fsdp, settings.tensor, devices=there[:needed])


def transformer(settings: ModelSettings, vocab: int | None = None) -> TransformerConfig:
    """The shape of the model; `vocab` is the tokenizer's size where the settings leave it open."""
    size = settings.vocab or vocab
    extra = {} if size is None else {"vocab": size}
    return variant(settings.variant, context=settings.context, dropout=settings.dropout, dtype=settings.dtype,
                   remat=settings.remat, logit_chunk=settings.logit_chunk, **extra)  # fmt: skip


def template(name: str, tokenizer: Tokenizer) -> Template:
    """A template by name, "chat" being the one that came with the tokenizer; InputError lists the names."""
    if name == "chat":
        return chat_template(tokenizer.chat_template, tokenizer.named_tokens)
    if name not in TEMPLATES:
        raise InputError(f"text.template is {name!r}: there are {', '.join((*TEMPLATES, 'chat'))}")
    return TEMPLATES[name]


def load_tokenizer(settings: TextSettings) -> Tokenizer:
    """The tokenizer of the settings; InputError names a file that is missing or foreign."""
    return loading.load_tokenizer(settings.tokenizer)


def init_params(model: PolicyModel | ScalarModel, key):
    """Fresh parameters; traceable."""
    ones = jnp.ones((1, 2), jnp.int32)
    return model.init(key, ones, ones)["params"]


def abstract_params(model: PolicyModel | ScalarModel):
    """Shapes of the parameters."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def sharded(tree, mesh):
    """Shapes of `tree` with the layout that the rule table gives them on `mesh`."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, param_shardings(tree, mesh)
    )


def load(path, model: PolicyModel | ScalarModel, mesh, name: str = "params", step: int | None = None):
    """Parameters of a checkpoint directory on the mesh; `name` is the subtree that holds them, `step` None the latest."""
    return load_params(Path(path), sharded(abstract_params(model), mesh), name=name, step=step)


def checkpoint_steps(path) -> list[int]:
    """The steps of the checkpoints in a run's folder; InputError where there is none."""
    steps = sorted(
        int(child.name) for child in (Path(path) / "checkpoints").glob("*") if child.name.isdigit()
    )
    if not steps:
        raise InputError(f"no checkpoint in {path}: train that stage first, or point at its run folder")
    return steps


def as_scalar(policy_params, key):
    """A reward model's parameters from a policy's: the vocabulary head becomes a fresh scalar head (paper 3.5)."""
    from instruct_jax.models.heads import init_head

    width = policy_params["embed"]["tokens"].shape[1]
    shared = {name: part for name, part in policy_params.items() if name != "unembed"}
    return {**shared, "head": init_head(key, width)}


def fresh_state(make_params, tx, mesh) -> TrainState:
    """A train state made on the mesh from `make_params()`, without ever lying whole on one device."""

    def make():
        return init_state(make_params(), tx)

    return jax.jit(make, out_shardings=param_shardings(jax.eval_shape(make), mesh))()


def state_from(params, tx, mesh, ema: bool = False) -> TrainState:
    """A train state around parameters that lie on the mesh already, whose buffers it may take over."""

    def make(params):
        return init_state(params, tx, ema)

    return jax.jit(make, out_shardings=param_shardings(jax.eval_shape(make, params), mesh))(params)


def jit_step(step, abstract_state, mesh):
    """The compiled form of step(state, batch, key): state donated, layout pinned, so that it compiles once."""
    return jax.jit(step, donate_argnums=0, out_shardings=(param_shardings(abstract_state, mesh), None))


def put(batch, mesh):
    """A batch of numpy arrays on the mesh, rows over data and fsdp."""
    return place(batch, batch_sharding(mesh))


def whole_steps(steps: int | None, epochs: float | None, per_epoch: int) -> int:
    """Steps of a run given either way; InputError unless exactly one is set."""
    if (steps is None) == (epochs is None):
        raise InputError("train.steps and train.epochs: set exactly one of them, the other to None")
    return steps if steps is not None else math.ceil(epochs * per_epoch)
