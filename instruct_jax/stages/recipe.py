"""Home of the whole chain in one process: data → SFT and PPO-init → K samples ranked → RM → selection → PPO(-ptx) → evaluation → report.

Order as in the paper: the reward model is trained on samples of the supervised models and then chooses among their epochs; PPO
starts from the PPO-init model, not from the SFT baseline. Every stage leaves a folder, so the chain resumes where it stopped.
"""

import json
from pathlib import Path

import jax
import ml_collections
import numpy as np

from instruct_jax.algorithms.ppo import PPOConfig
from instruct_jax.data import builders
from instruct_jax.data.card import data_card
from instruct_jax.devices import matmul_gflops, peak_rss_bytes, versions
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.records import Demonstration, Prompt, Ranking, Rating, read_jsonl
from instruct_jax.reports.page import write_report
from instruct_jax.stages import (
    collect,
    evaluate,
    lab_base,
    lab_collect,
    lab_data,
    select,
    setup,
    train_lm,
    train_ppo,
    train_rm,
)
from instruct_jax.stages.chain import Chain, check_mesh, check_sections, model_section, stage_config
from instruct_jax.stages.settings import SHARED, known_fields, names_in, section
from instruct_jax.training.checkpoint import Checkpoints
from instruct_jax.training.optim import OptimizerConfig
from instruct_jax.training.state import TrainState


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Runs the chain as `config` says; ends with `workdir`/report. Run again, it resumes; a finished chain returns at once."""
    if (workdir / "report" / "index.html").exists():
        print(f"already done: {workdir / 'report' / 'index.html'}")
        return
    check(config)
    config = resolve(config)
    check_mesh(config, STAGES, SECTIONS, OWN_SECTIONS)
    chain = Chain(workdir)

    def path(name):
        (workdir / name).mkdir(parents=True, exist_ok=True)
        return workdir / name

    def stage(name, run_stage, **fields):
        chain.stage(name, lambda: run_stage(stage_config(config, name, workdir, **fields), path(name)))

    base, sft, ppo_init, rm = (str(workdir / n) for n in ("base", "sft", "ppo_init", "rm"))
    chain.stage("data", lambda: lab_data.run(stage_config(config, "data_stage", workdir), workdir))
    bases = ("base", "reward_base") if own_reward_base(config) else ("base",)
    for name in bases:
        if name in config:
            stage(name, train_lm.run, stage="pretrain", init="")
        else:
            chain.stage(name, lambda name=name: _place_base(config, name, path(name)))
    stage("ppo_init", train_lm.run, stage="sft", init=base)
    stage("sft", train_lm.run, stage="sft", init=base)
    stage("collect", lab_collect.run, policies={"ppo_init": ppo_init, "sft": sft})
    chain.stage("rankings", lambda: builders.build(workdir / "records", workdir / "data"))
    stage("rm", train_rm.run, stage="rm", init=reward_start(config, workdir))
    if "flan" in config:
        stage("flan", train_lm.run, stage="sft", init=base)
    groups = {"sft": sft} | ({"flan": str(workdir / "flan")} if "flan" in config else {})
    stage("select", select.run, groups=groups, base=base, reward=f"{rm}/reward")
    runs = [name for name in ("ppo", "ppo_ptx") if name in config]
    for name in runs:
        stage(name, train_ppo.run, stage="ppo", init=ppo_init, reward=f"{rm}/reward")
    chosen = json.loads((workdir / "select" / "select.json").read_text())
    trained = {name: section(config, f"{name}.train", train_ppo.TrainSettings) for name in runs}
    models = contenders(workdir, chosen, {name: train.subtree for name, train in trained.items()})
    curves = {name: {"folder": str(workdir / name), "subtree": train.subtree, "batch_size": train.batch_size}
              for name, train in trained.items()}  # fmt: skip
    stage(
        "evaluate", evaluate.run, models=models, reward=f"{rm}/reward", curves=curves, task_models=("base", "sft", *runs)
    )  # fmt: skip
    report(config, workdir, chain)


SECTIONS = {
    "data": train_lm.DataSettings, "train": train_lm.TrainSettings, "optimizer": OptimizerConfig,
    "policy_optimizer": OptimizerConfig, "value_optimizer": OptimizerConfig, "ppo": PPOConfig,
    "collect": collect.CollectSettings, "select": select.SelectSettings, "evaluate": evaluate.EvaluateSettings,
}  # fmt: skip
OWN_SECTIONS = {
    "rm": {"data": train_rm.DataSettings, "train": train_rm.TrainSettings},
    "ppo": {"train": train_ppo.TrainSettings}, "ppo_ptx": {"train": train_ppo.TrainSettings},
}  # fmt: skip
STAGES = (
    "base",
    "reward_base",
    "ppo_init",
    "sft",
    "flan",
    "collect",
    "rm",
    "select",
    "ppo",
    "ppo_ptx",
    "evaluate",
)
FIELDS = (*SHARED, "profile", "reward_model", "lab", *STAGES)


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    known_fields(config, FIELDS)
    check_sections(resolve(config), lab_data.LabSettings, "lab", STAGES, SECTIONS, OWN_SECTIONS)
    if "reward_base" in config and not own_reward_base(config):
        raise InputError(
            "config.reward_base: reward_model has the shape of model, so it starts from SFT: leave the section out"
        )
    if "base" in config and own_reward_base(config) and "reward_base" not in config:
        raise InputError(
            "config.reward_base: reward_model has another shape than model and cannot start from SFT: add the section (as "
            "config.base), or give both one shape"
        )


def own_reward_base(config: ml_collections.ConfigDict) -> bool:
    """Whether the reward model is of another shape than the policy, and so starts from a base of its own instead of SFT."""
    policy, reward = (section(config, name, setup.ModelSettings) for name in ("model", "reward_model"))
    return any(
        getattr(policy, f) != getattr(reward, f) for f in ("variant", "pretrained", "vocab", "context")
    )


def reward_start(config: ml_collections.ConfigDict, workdir: Path) -> str:
    """The folder of what the reward model starts from."""
    return str(workdir / ("reward_base" if own_reward_base(config) else "sft"))


def contenders(workdir: Path, chosen: dict, policies: dict[str, str]) -> dict[str, dict]:
    """The models that the evaluation compares, by the names of the paper's figures; "reference" is what KL is measured to,
    `policies` say where those of the PPO runs lie in their checkpoints."""
    models = {
        "reference": {"checkpoint": str(workdir / "ppo_init")},
        "base": {"checkpoint": str(workdir / "base"), "raw": True},
        "prompted": {"checkpoint": str(workdir / "base"), "prefix": chosen["prefix"]["best"]},
        "sft": {"checkpoint": str(workdir / "sft"), "step": int(chosen["sft"]["best"])},
    }
    if "flan" in chosen:
        models["flan"] = {"checkpoint": str(workdir / "flan"), "step": int(chosen["flan"]["best"])}
    return models | {
        name: {"checkpoint": str(workdir / name), "subtree": subtree} for name, subtree in policies.items()
    }


def report(config: ml_collections.ConfigDict, workdir: Path, chain: Chain) -> None:
    """Writes the report from what the stages left; the page last, so that its presence means that all is done."""
    evaluation = json.loads((workdir / "evaluate" / "evaluation.json").read_text())
    records = workdir / "records"
    kinds = {"prompts": (Prompt, ("train", "valid", "test")), "demonstrations": (Demonstration, ("train", "valid")),
             "rankings": (Ranking, ("train", "valid")), "ratings": (Rating, ("valid",))}  # fmt: skip
    found = {
        kind: {s: read_jsonl(records / f"{kind}.{s}.jsonl", cls) for s in splits}
        for kind, (cls, splits) in kinds.items()
    }
    demonstrated = read_jsonl(records / "prompts.demonstrated.jsonl", Prompt)
    tokenizer = setup.load_tokenizer(section(config, "text", setup.TextSettings))
    stages = [{"name": name, "seconds": round(seconds, 1)} for name, seconds in chain.seconds.items()]
    data = {
        **evaluation,
        "seed": config.seed,
        "wall_seconds": round(chain.wall(), 1),
        "peak_rss_bytes": peak_rss_bytes(),
        "matmul_gflops": round(matmul_gflops(), 1),
        "versions": versions(),
        "data_card": list(data_card(found, tokenizer, demonstrated).values()),
        "stages": stages,
        "config": {k: v for k, v in config.to_dict().items() if k != "stage"},
    }
    write_report(workdir / "report", data, chain.wall)


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with the shipped tokenizer where it names none, and the lab's seed set to the run's."""
    config = config.copy_and_resolve_references()
    tokenizer = None if "tokenizer" not in names_in(config, "text") else config.text.tokenizer
    names_in(config, "lab")
    with config.unlocked(), config.ignore_type():
        config.lab.seed = config.seed
        if tokenizer in (None, ""):
            config.text.tokenizer = str(lab_base.ASSETS / "tokenizer.model")
    return config


def _place_base(config: ml_collections.ConfigDict, stage: str, folder: Path) -> None:
    """The shipped base model of the stage's shape as a checkpoint folder, like every other model of the chain."""
    text = section(config, "text", setup.TextSettings)
    settings = section(config, model_section(stage), setup.ModelSettings)
    model = PolicyModel(setup.transformer(settings, setup.load_tokenizer(text).vocab_size))
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    with jax.set_mesh(mesh):
        state = TrainState(
            np.zeros((), np.int32), lab_base.load_base(settings.variant, model, mesh), (), None
        )
        checkpoints = Checkpoints(folder / "checkpoints", keep=1)
        checkpoints.save(
            0, jax.tree.map(jax.numpy.asarray, state), setup.meta("pretrain", config, model.config), wait=True
        )
        checkpoints.close()
