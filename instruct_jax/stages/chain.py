"""Home of what a recipe is made of: stages that run once and leave a folder each, their times, and each one's share of the config."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import ml_collections

from instruct_jax.errors import InputError
from instruct_jax.sharding import check_divides
from instruct_jax.stages import setup
from instruct_jax.stages.settings import names_in, nearest, section
from instruct_jax.training.checkpoint import Saving


class Chain:
    """The stages done so far and their times, kept in times.json."""

    def __init__(self, workdir: Path):
        self.path = workdir / "times.json"
        self.seconds: dict[str, float] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def stage(self, name: str, work: Callable[[], None]) -> None:
        """Runs a stage unless an earlier session finished it; the times of all sessions add up."""
        if self.seconds.get(name, -1.0) >= 0:
            return
        print(f"== {name}", flush=True)
        began = time.perf_counter()
        try:
            work()
            done = True
        except BaseException:
            done = False
            raise
        finally:
            spent = time.perf_counter() - began + self.seconds.get(f"{name} (unfinished)", 0.0)
            self.seconds[name if done else f"{name} (unfinished)"] = spent
            if done:
                self.seconds.pop(f"{name} (unfinished)", None)
            self._write()

    def _write(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.seconds, indent=2) + "\n")
        temporary.replace(self.path)


def stage_config(
    config: ml_collections.ConfigDict, name: str, workdir: Path, **fields
) -> ml_collections.ConfigDict:
    """The config of one stage: its own section of the recipe's, what all stages share, and where its inputs lie."""
    everywhere = ("seed", "text", "model", "reward_model", "mesh", "lab", "sentiment", "wandb", "saving", "profile")  # fmt: skip
    shared = {key: config[key] for key in everywhere if key in config}
    own = config[name].to_dict() if name in config else {}
    paths = {"data_dir": str(workdir / "data"), "records_dir": str(workdir / "records")}
    merged = ml_collections.ConfigDict({**shared, **paths, "name": name, **own, **fields})
    for key in ("model", "text"):
        merged[key] = ml_collections.ConfigDict({**shared[key].to_dict(), **own.get(key, {})})
    if "data" in merged:
        merged.data.dir = str(workdir / "data")
    return merged.lock()


def check_sections(
    config: ml_collections.ConfigDict, world: type, world_name: str, stages, classes: dict, own: dict
) -> None:
    """Reads every section of every stage before anything runs, so that a wrong field is named at once; asks for no device.

    `world` is the dataclass of the recipe's own section `world_name`; `classes` are those of the stages' sections by name, `own` the
    ones of a stage that differ, by stage.
    """
    for name, cls in (("text", setup.TextSettings), ("mesh", setup.MeshSettings), (world_name, world),
                      ("model", setup.ModelSettings), ("reward_model", setup.ModelSettings)):  # fmt: skip
        section(config, name, cls)
    setup.saving(config)
    for stage in (name for name in stages if name in config):
        for name in names_in(config, stage):
            if name == "model":
                names_in(config, f"{stage}.model")
                continue
            known = classes | {"saving": Saving} | own.get(stage, {})
            if name not in known:
                raise InputError(f"config.{stage}.{name}: no such section{nearest(name, known)}")
            section(config, f"{stage}.{name}", known[name])
        stage_model = {**config.model.to_dict(), **config[stage].get("model", {})}
        section(
            ml_collections.ConfigDict({stage: {"model": stage_model}}), f"{stage}.model", setup.ModelSettings
        )
    text = section(config, "text", setup.TextSettings)
    tokenizer = setup.load_tokenizer(text)
    setup.template(text.template, tokenizer)
    for name in ("model", "reward_model"):
        setup.transformer(section(config, name, setup.ModelSettings), tokenizer.vocab_size)


def check_mesh(config: ml_collections.ConfigDict, stages) -> None:
    """InputError where this machine's devices or the mesh do not go with the config."""
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    for stage in stages:
        if stage in config and "data" in config[stage]:
            check_divides(config[stage].data.batch_size, mesh)
