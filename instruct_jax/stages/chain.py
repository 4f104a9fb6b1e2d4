"""Home of what a recipe is made of: stages that run once and leave a folder each, their times, and each one's share of the config."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import ml_collections

from instruct_jax.errors import InputError
from instruct_jax.sharding import check_divides
from instruct_jax.stages import setup, train_rm
from instruct_jax.stages.settings import UNFINISHED, names_in, nearest, section
from instruct_jax.training.checkpoint import Saving

REWARD_STAGES = ("reward_base", "rm")
TAKEN_AT_ONCE = (
    "batch_size", "valid_batch_size", "minibatch_size", "microbatch_size", "ptx_microbatch_size", "rollout_size",
)  # fmt: skip


class Chain:
    """The stages done so far and their times, kept in times.json."""

    def __init__(self, workdir: Path):
        self.path = workdir / "times.json"
        self.seconds: dict[str, float] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self._began, self._before = time.perf_counter(), sum(self.seconds.values())

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
            spent = time.perf_counter() - began + self.seconds.get(name + UNFINISHED, 0.0)
            self.seconds[name if done else name + UNFINISHED] = spent
            if done:
                self.seconds.pop(name + UNFINISHED, None)
            self._write()

    def wall(self) -> float:
        """Seconds of this session since the chain was opened, and of earlier ones in their stages."""
        return self._before + time.perf_counter() - self._began

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
    for key, of in (("model", model_section(name)), ("text", "text")):
        merged[key] = ml_collections.ConfigDict({**shared[of].to_dict(), **own.get(key, {})})
    if "data" in merged:
        merged.data.dir = str(workdir / "data")
    return merged.lock()


def model_section(stage: str) -> str:
    """Which of the recipe's two shapes a stage's `model` is."""
    return "reward_model" if stage in REWARD_STAGES else "model"


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
        stage_model = {**config[model_section(stage)].to_dict(), **config[stage].get("model", {})}
        model = section(
            ml_collections.ConfigDict({stage: {"model": stage_model}}), f"{stage}.model", setup.ModelSettings
        )
        if stage == "rm":
            names = f"config.rm.data.shared_prompts and config.{model_section(stage)}"
            train_rm.check_sharing(section(config, "rm.data", train_rm.DataSettings), model, names)
    text = section(config, "text", setup.TextSettings)
    tokenizer = setup.load_tokenizer(text)
    setup.template(text.template, tokenizer)
    for name in ("model", "reward_model"):
        setup.transformer(section(config, name, setup.ModelSettings), tokenizer.vocab_size)


def check_mesh(config: ml_collections.ConfigDict, stages, classes: dict, own: dict) -> None:
    """InputError where this machine's devices or the mesh do not go with a stage's sections, which `classes` and `own` are the
    dataclasses of, as in `check_sections`."""
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    for stage in (name for name in stages if name in config):
        known = classes | own.get(stage, {})
        for name in (name for name in names_in(config, stage) if name in known):
            settings = section(config, f"{stage}.{name}", known[name])
            for field in TAKEN_AT_ONCE:
                if getattr(settings, field, None) is not None:
                    check_divides(getattr(settings, field), mesh, f"config.{stage}.{name}.{field}")
