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
from instruct_jax.stages.chain import Chain, check_mesh, check_sections, stage_config
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
    check_mesh(config, STAGES)
    chain = Chain(workdir)

    def path(name):
        (workdir / name).mkdir(parents=True, exist_ok=True)
        return workdir / name

    def stage(name, run_stage, **fields):
        chain.stage(name, lambda: run_stage(stage_config(config, name, workdir, **fields), path(name)))

    base, sft, ppo_init, rm = (str(workdir / n) for n in ("base", "sft", "ppo_init", "rm"))
    chain.stage("data", lambda: lab_data.run(stage_config(config, "data_stage", workdir), workdir))
    if "base" in config:
        stage("base", train_lm.run, stage="pretrain", init="")
    else:
        chain.stage("base", lambda: _place_base(config, path("base")))
    stage("ppo_init", train_lm.run, stage="sft", init=base)
    stage("sft", train_lm.run, stage="sft", init=base)
    stage("collect", lab_collect.run, policies={"ppo_init": ppo_init, "sft": sft})
    chain.stage("rankings", lambda: builders.build(workdir / "records", workdir / "data"))
    stage("rm", train_rm.run, stage="rm", init=sft)
    if "flan" in config:
        stage("flan", train_lm.run, stage="sft", init=base)
    groups = {"sft": sft} | ({"flan": str(workdir / "flan")} if "flan" in config else {})
    stage("select", select.run, groups=groups, base=base, reward=f"{rm}/reward")
    runs = [name for name in ("ppo", "ppo_ptx") if name in config]
    for name in runs:
        stage(name, train_ppo.run, stage="ppo", init=ppo_init, reward=f"{rm}/reward")
    chosen = json.loads((workdir / "select" / "select.json").read_text())
    models = contenders(workdir, chosen, runs)
    stage(
        "evaluate", evaluate.run, models=models, reward=f"{rm}/reward", curves={n: str(workdir / n) for n in runs},
        ppo_batch_size=config.ppo_ptx.train.batch_size, task_models=("base", "sft", *runs),
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
STAGES = ("base", "ppo_init", "sft", "flan", "collect", "rm", "select", "ppo", "ppo_ptx", "evaluate")
FIELDS = (*SHARED, "profile", "reward_model", "lab", *STAGES)


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    known_fields(config, FIELDS)
    check_sections(resolve(config), lab_data.LabSettings, "lab", STAGES, SECTIONS, OWN_SECTIONS)


def contenders(workdir: Path, chosen: dict, runs: list[str]) -> dict[str, dict]:
    """The models that the evaluation compares, by the names of the paper's figures; "reference" is what KL is measured to."""
    models = {
        "reference": {"checkpoint": str(workdir / "ppo_init")},
        "base": {"checkpoint": str(workdir / "base"), "raw": True},
        "prompted": {"checkpoint": str(workdir / "base"), "prefix": chosen["prefix"]["best"]},
        "sft": {"checkpoint": str(workdir / "sft"), "step": int(chosen["sft"]["best"])},
    }
    if "flan" in chosen:
        models["flan"] = {"checkpoint": str(workdir / "flan"), "step": int(chosen["flan"]["best"])}
    return models | {name: {"checkpoint": str(workdir / name), "subtree": "policy/ema"} for name in runs}


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
        "wall_seconds": round(sum(chain.seconds.values()), 1),
        "peak_rss_bytes": peak_rss_bytes(),
        "matmul_gflops": round(matmul_gflops(), 1),
        "versions": versions(),
        "data_card": list(data_card(found, tokenizer, demonstrated).values()),
        "stages": stages,
        "config": {k: v for k, v in config.to_dict().items() if k != "stage"},
    }
    write_report(workdir / "report", data)


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


def _place_base(config: ml_collections.ConfigDict, folder: Path) -> None:
    """The shipped base model as a checkpoint folder, like every other model of the chain."""
    text = section(config, "text", setup.TextSettings)
    model = PolicyModel(
        setup.transformer(
            section(config, "model", setup.ModelSettings), setup.load_tokenizer(text).vocab_size
        )
    )
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    with jax.set_mesh(mesh):
        state = TrainState(np.zeros((), np.int32), lab_base.load_base(model, mesh), (), None)
        checkpoints = Checkpoints(folder / "checkpoints", keep=1)
        checkpoints.save(
            0, jax.tree.map(jax.numpy.asarray, state), setup.meta("pretrain", config, model.config), wait=True
        )
        checkpoints.close()
