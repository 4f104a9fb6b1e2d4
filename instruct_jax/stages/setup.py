"""Home of what every stage begins with: the mesh, the model's shape, text, parameters from a checkpoint, batches."""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path

import jax

from instruct_jax.data.streams import Batches
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.models.variants import TransformerConfig, variant
from instruct_jax.pretrained import families, gguf, huggingface
from instruct_jax.pretrained.gguf_header import read_metadata
from instruct_jax.pretrained.source import Source
from instruct_jax.sharding import (
    batch_sharding,
    batch_share,
    check_divides,
    check_tokens,
    make_mesh,
    place,
    place_share,
)
from instruct_jax.stages.settings import section
from instruct_jax.stages.states import abstract_params, sharded
from instruct_jax.text import loading
from instruct_jax.text.gguf import gguf_tokenizer
from instruct_jax.text.templates import TEMPLATES, Template, chat_template
from instruct_jax.text.tokenizer import Tokenizer
from instruct_jax.training.checkpoint import LATEST_ALONE, Saving, load_params, read_meta


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis; their product is how many devices are used. `data` -1: as many as there are. `sequence` splits the
    tokens of a row, for contexts whose activations are too long for one device."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """A named shape, or the shape of `pretrained`, and what of it this stage changes; `vocab` None takes the tokenizer's.

    `pretrained` is a Hugging Face folder or a .gguf file; `unroll` None leaves the variant's (False for real models)."""

    variant: str = ""
    context: int = 0
    pretrained: str = ""
    vocab: int | None = None
    unroll: bool | None = None
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    logit_chunk: int = 1024
    freeze_embed: bool = False

    def __post_init__(self):
        if bool(self.variant) == bool(self.pretrained):
            raise InputError("model.variant and model.pretrained: set exactly one of them")
        if self.pretrained and self.vocab is not None:
            raise InputError("model.vocab: leave it out beside model.pretrained, whose own it is")


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """How text becomes rows: the tokenizer's file, the template's name, and the limits in tokens."""

    tokenizer: str
    template: str
    max_prompt: int
    max_response: int

    @property
    def length(self) -> int:
        """Tokens of a row of both."""
        return self.max_prompt + self.max_response


SECTIONS = {
    "mesh": MeshSettings, "model": ModelSettings, "reward_model": ModelSettings, "text": TextSettings, "saving": Saving,
}  # fmt: skip


def open_mesh(settings: MeshSettings) -> jax.sharding.Mesh:
    """The mesh over the first devices; InputError where there are too few, or where a process has none in it."""
    there, inner = jax.devices(), settings.fsdp * settings.sequence * settings.tensor
    if settings.data == -1 and len(there) % max(inner, 1):
        raise InputError(
            f"mesh.data is -1, which takes all {len(there)} devices, but mesh.fsdp x mesh.sequence x mesh.tensor is "
            f"{settings.fsdp} x {settings.sequence} x {settings.tensor} = {inner}: make it a divisor of {len(there)}, or set "
            "mesh.data"
        )
    data = settings.data if settings.data != -1 else len(there) // max(inner, 1)
    needed = data * inner
    if needed > len(there):
        raise InputError(
            f"mesh {data} x {settings.fsdp} x {settings.sequence} x {settings.tensor} needs {needed} devices, here are "
            f"{len(there)}: lower mesh.data, mesh.fsdp, mesh.sequence or mesh.tensor"
        )
    taking_part = {device.process_index for device in there[:needed]}
    if 0 < len(taking_part) < jax.process_count():
        raise InputError(
            f"mesh {data} x {settings.fsdp} x {settings.sequence} x {settings.tensor} takes {needed} of {len(there)} devices, "
            f"which leaves {jax.process_count() - len(taking_part)} of {jax.process_count()} processes without one: set "
            f"mesh.data to -1, or raise the mesh to a product of {len(there)}"
        )
    return make_mesh(data, settings.fsdp, settings.tensor, settings.sequence, devices=there[:needed])


def transformer(settings: ModelSettings, vocab: int | None = None) -> TransformerConfig:
    """The shape of the model; `vocab` is the tokenizer's size where the settings leave it open."""
    fields = dict(context=settings.context, dropout=settings.dropout, dtype=settings.dtype, remat=settings.remat,
                  attention=settings.attention, logit_chunk=settings.logit_chunk, freeze_embed=settings.freeze_embed)  # fmt: skip
    if settings.unroll is not None:
        fields["unroll"] = settings.unroll
    if settings.pretrained:
        source = open_source(settings.pretrained)
        config = families.to_config(source.config, source.config_file, **fields)
        if vocab is not None and vocab > config.vocab:
            raise InputError(
                f"the tokenizer has {vocab} ids, {source.path} has embeddings for {config.vocab}"
            )
        return config
    if settings.vocab is not None and vocab is not None and settings.vocab < vocab:
        raise InputError(
            f"model.vocab is {settings.vocab}, the tokenizer has {vocab} ids: leave it out or raise it"
        )
    size = vocab if settings.vocab is None else settings.vocab
    return variant(settings.variant, **fields, **({} if size is None else {"vocab": size}))


def row_length(text: TextSettings, model: TransformerConfig) -> int:
    """Tokens of a row of prompt and response; InputError where the settings make none, or the model cannot hold it."""
    for name in ("max_prompt", "max_response"):
        if getattr(text, name) < 1:
            raise InputError(f"text.{name} is {getattr(text, name)}: it must be at least 1")
    length = text.length
    if length > model.context:
        raise InputError(
            f"text.max_prompt + text.max_response is {length}, model.context {model.context}: shorten rows or raise it"
        )
    return length


def expand(path: str | Path) -> Path:
    """The path with ~ and a leading $INSTRUCT_JAX_DATA (default .cache/data) replaced."""
    path = str(path)
    if path.startswith("$INSTRUCT_JAX_DATA"):
        path = os.environ.get("INSTRUCT_JAX_DATA", ".cache/data") + path.removeprefix("$INSTRUCT_JAX_DATA")
    return Path(path).expanduser()


def is_foreign(path: str | Path) -> bool:
    """Whether a path names a checkpoint of other tools: a .gguf file, or a folder with weights or a model's config.json."""
    path = expand(path)
    theirs = ("config.json", "model.safetensors", "model.safetensors.index.json")
    return path.suffix == ".gguf" or (
        any((path / name).exists() for name in theirs) and not (path / "checkpoints").is_dir()
    )


def open_source(path: str | Path) -> Source:
    """A checkpoint of other tools, its header read."""
    path = expand(path)
    return gguf.open_source(path) if path.suffix == ".gguf" else huggingface.open_source(path)


def template(name: str, tokenizer: Tokenizer) -> Template:
    """A template by name, "chat" being the one that came with the tokenizer; InputError lists the names."""
    if name == "chat":
        if tokenizer.lacks:
            raise InputError(
                f"the chat template uses {tokenizer.lacks!r}, which tokenizer.model lacks and the files beside it add: save a "
                "tokenizer.json there first (transformers: AutoTokenizer.from_pretrained, save_pretrained), or name another template"
            )
        return chat_template(tokenizer.chat_template, tokenizer.named_tokens)
    if name not in TEMPLATES:
        raise InputError(f"text.template is {name!r}: there are {', '.join((*TEMPLATES, 'chat'))}")
    return TEMPLATES[name]


def load_tokenizer(settings: TextSettings) -> Tokenizer:
    """The tokenizer of the settings: a SentencePiece .model, a tokenizer.json, a Hugging Face folder or a .gguf file; InputError
    names a file that is missing or broken."""
    if not settings.tokenizer:
        raise InputError("text.tokenizer is empty: name a tokenizer's file or folder")
    path = expand(settings.tokenizer)
    if path.suffix == ".gguf":
        return gguf_tokenizer(read_metadata(path), path)
    return loading.load_tokenizer(path)


def load(path, model: PolicyModel | ScalarModel, mesh, name: str = "params", step: int | None = None):
    """Parameters of a checkpoint on the mesh: a run's folder (`name` is the subtree that holds them, `step` None the latest), a
    Hugging Face folder or a .gguf file."""
    if is_foreign(path):
        return huggingface.load(open_source(path), model.config, mesh, scalar=isinstance(model, ScalarModel))
    abstract = sharded(abstract_params(model), mesh)
    try:
        return load_params(expand(path), abstract, name=name, step=step)
    except (OSError, ValueError) as error:  # orbax, of files that are cut or changed
        raise InputError(
            f"{path}: its checkpoint cannot be read ({error}): name another step or run"
        ) from error


def checkpoint_steps(path) -> list[int]:
    """The steps of the checkpoints in a run's folder; InputError where there is none."""
    steps = sorted(
        int(child.name) for child in (Path(path) / "checkpoints").glob("*") if child.name.isdigit()
    )
    if not steps:
        raise InputError(f"no checkpoint in {path}: train that stage first, or point at its run folder")
    return steps


@dataclasses.dataclass(frozen=True)
class Opened:
    """A checkpoint of any kind, ready to load: its shape, whether it is a reward model, its parameters on a mesh, its tokenizer's
    path and its template's name."""

    config: TransformerConfig
    scalar: bool
    load: Callable
    tokenizer: str
    template: str


def open_model(path: str | Path, step: int | None = None, **overrides) -> Opened:
    """The checkpoint of a run's folder (of `step`, or the latest), a Hugging Face folder or a .gguf file; `overrides` are fields of
    TransformerConfig."""
    if is_foreign(path):
        source = open_source(path)
        config = families.to_config(source.config, source.config_file, **overrides)
        scalar = "score.weight" in source.shapes
        return Opened(
            config, scalar, lambda mesh: huggingface.load(source, config, mesh, scalar), str(path), "chat"
        )
    saved = _checked_meta(path, step)
    # Whoever opens it may have other devices than it was trained on.
    config = TransformerConfig(**{**saved["model"], "attention": "auto", **overrides})
    text, scalar, subtree = saved["config"].get("text", {}), saved["stage"] == "rm", saved["subtree"]
    model = (ScalarModel if scalar else PolicyModel)(config)
    return Opened(config, scalar, lambda mesh: load(path, model, mesh, name=subtree, step=step), text.get("tokenizer", ""),
                  text.get("template", "plain"))  # fmt: skip


def _checked_meta(path: str | Path, step: int | None) -> dict:
    """What was saved beside a run's checkpoint; InputError unless it is as `meta` writes it."""
    try:
        saved = read_meta(expand(path), step)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: what its checkpoint says of itself cannot be read ({error})") from error
    if not isinstance(saved, dict) or "model" not in saved:
        raise InputError(
            f"{path}: its checkpoint does not say the model's shape: train it again with this version"
        )
    saved = {"subtree": "params", **saved}
    for key, kind in {"config": dict, "model": dict, "stage": str, "subtree": str}.items():
        if not isinstance(saved.get(key), kind):
            raise InputError(f"{path}: its checkpoint has no {key}, or one of another kind: it is damaged")
    if not isinstance(saved["config"].get("text", {}), dict):
        raise InputError(f"{path}: its checkpoint's config.text is no section: it is damaged")
    known = [field.name for field in dataclasses.fields(TransformerConfig)]
    unknown = sorted(set(saved["model"]) - set(known))
    if unknown or saved["model"].get("family", "gpt2") not in families.FAMILIES:
        what = f"the field {unknown[0]}" if unknown else f"family {saved['model']['family']!r:.80}"
        raise InputError(
            f"{path}: its checkpoint's model has {what}, unknown here: use the version that made it"
        )
    return saved


def meta(stage: str, config, model: TransformerConfig, subtree: str = "params") -> dict:
    """What is saved beside a checkpoint: enough to open it without its config file."""
    return {
        "stage": stage, "config": config.to_dict(), "model": dataclasses.asdict(model), "subtree": subtree,
    }  # fmt: skip


def saving(config) -> Saving:
    """The section `saving` of a stage's config, its defaults where there is none."""
    return section(config, "saving", Saving) if "saving" in config else LATEST_ALONE


def pieces(batch_size: int, microbatch_size: int | None, length: int, mesh) -> int:
    """Into how many pieces a batch of rows of `length` tokens is cut; InputError where sizes do not divide over each other or the mesh."""
    check_tokens(length, mesh)
    if microbatch_size is None:
        check_divides(batch_size, mesh, "config.data.batch_size")
        return 1
    if microbatch_size < 1 or batch_size % microbatch_size:
        raise InputError(
            f"train.microbatch_size is {microbatch_size}: it must divide the batch of {batch_size}"
        )
    check_divides(microbatch_size, mesh, "config.train.microbatch_size")
    return batch_size // microbatch_size


def put(batch, mesh):
    """A batch of numpy arrays on the mesh, rows over data and fsdp."""
    return place(batch, batch_sharding(mesh))


def put_step(batches: Batches, step: int, mesh):
    """The batch of a step on the mesh; every process makes only the rows that its own devices hold."""
    share = batch_share(mesh)
    return place_share(batches.at(step, share), share, mesh)


def whole_steps(steps: int | None, epochs: float | None, per_epoch: int) -> int:
    """Steps of a run given either way; InputError unless exactly one is set, and above 0."""
    if (steps is None) == (epochs is None):
        raise InputError("train.steps and train.epochs: set exactly one of them, the other to None")
    for name, value in (("steps", steps), ("epochs", epochs)):
        if value is not None and not value > 0:
            raise InputError(f"train.{name} is {value}: it must be above 0")
    return steps if steps is not None else math.ceil(epochs * per_epoch)
