"""Home of the lab's base model: corpus, tokenizer, pretraining, and the two files that the package ships of it."""

import dataclasses
import json
from pathlib import Path

import jax
import ml_collections
import numpy as np

from instruct_jax.data import builders
from instruct_jax.data.lab import corpus
from instruct_jax.data.lab.world import make_world
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.records import write_jsonl
from instruct_jax.stages import setup, states, train_lm
from instruct_jax.stages.settings import check_fields, section
from instruct_jax.text.tokenizer import train_sentencepiece

FIELDS = (*train_lm.FIELDS, "corpus", "tokenizer", "export")
ASSETS = Path(__file__).parents[1] / "data" / "lab" / "assets"


@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """Which world the documents are about, and how many there are."""

    world_seed: int
    documents: int
    valid_documents: int


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """Pieces of the vocabulary, and how many documents they are learned from."""

    vocab: int
    texts: int


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """The type that the weights are written in: float32 or float16."""

    dtype: str

    def __post_init__(self):
        if self.dtype not in ("float32", "float16"):
            raise InputError(f'export.dtype is {self.dtype!r}: use "float32" or "float16"')


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    own = {"corpus": CorpusSettings, "tokenizer": TokenizerSettings, "export": ExportSettings}
    train_lm.check(ml_collections.ConfigDict({k: v for k, v in config.items() if k not in own}))
    check_fields(config, FIELDS, own)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Makes corpus and tokenizer in `workdir`, trains the model on them and exports <variant>.safetensors."""
    settings = section(config, "corpus", CorpusSettings)
    pieces = section(config, "tokenizer", TokenizerSettings)
    section(config, "export", ExportSettings)
    world = make_world(settings.world_seed)
    documents = corpus.make_documents(settings.world_seed, world, settings.documents)
    valid = corpus.heldout_documents(settings.world_seed, world, settings.valid_documents)
    records = workdir / "records"
    records.mkdir(parents=True, exist_ok=True)
    write_jsonl(records / "documents.train.jsonl", documents)
    write_jsonl(records / "documents.valid.jsonl", valid)
    builders.build(records, workdir / "data")
    tokenizer_path = workdir / "tokenizer.model"
    train_sentencepiece([d.text for d in documents[: pieces.texts]], tokenizer_path, pieces.vocab, config.seed, model_type="bpe",
                        space_after=True)  # fmt: skip
    stage = config.copy_and_resolve_references()
    stage.unlock()
    stage.text.tokenizer, stage.data.dir = str(tokenizer_path), str(workdir / "data")
    train_lm.run(stage.lock(), workdir)
    export(stage, workdir)


def export(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes the trained parameters as one safetensors file in config.export.dtype."""
    from safetensors.numpy import save_file

    dtype = section(config, "export", ExportSettings).dtype
    tokenizer = setup.load_tokenizer(section(config, "text", setup.TextSettings))
    model = PolicyModel(
        setup.transformer(section(config, "model", setup.ModelSettings), tokenizer.vocab_size)
    )
    mesh = setup.open_mesh(setup.MeshSettings())
    params = setup.load(workdir, model, mesh)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, dtype)
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)}  # fmt: skip
    metadata = {"model": json.dumps(dataclasses.asdict(model.config)), "stage": "pretrain"}
    save_file(flat, workdir / f"{config.model.variant}.safetensors", metadata=metadata)


def load_base(variant: str | None, model: PolicyModel, mesh):
    """The shipped base model of that variant on the mesh, float32; its names and shapes checked against the model."""
    from safetensors.numpy import load_file

    from instruct_jax.sharding import place

    path = ASSETS / f"{variant}.safetensors"
    if not path.exists():
        shipped = " and ".join(sorted(p.stem for p in ASSETS.glob("*.safetensors")))
        raise InputError(
            f"model.variant {variant}: the package ships no base model of it, only of {shipped}; add a section base to train one"
        )
    flat, abstract = load_file(path), states.sharded(states.abstract_params(model), mesh)

    def pick(keys, leaf):
        name = jax.tree_util.keystr(keys, simple=True, separator="/")
        if name not in flat or flat[name].shape != leaf.shape:
            found = flat[name].shape if name in flat else "nothing"
            raise InputError(
                f"{path}: {name} should be {leaf.shape}, there is {found}; is model.context changed?"
            )
        return place(flat[name].astype(leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(pick, abstract)
