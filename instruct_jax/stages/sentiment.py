"""Home of the sentiment recipe on real weights: data → SFT → K samples ranked → RM → PPO and PPO-ptx → evaluation → report.

As Ziegler et al. (2019) in the steps of the paper. Unlike the paper's own order (stages/recipe), one supervised model is the
baseline, the start of the reward model and of PPO, and the KL reference.
"""

import json
from pathlib import Path

import ml_collections

from instruct_jax.algorithms.ppo import PPOConfig
from instruct_jax.data import builders
from instruct_jax.data.card import data_card
from instruct_jax.devices import matmul_gflops, peak_rss_bytes, versions
from instruct_jax.errors import InputError
from instruct_jax.records import Demonstration, Prompt, Ranking, read_jsonl
from instruct_jax.reports.page import write_report
from instruct_jax.stages import (
    sentiment_data,
    sentiment_evaluate,
    setup,
    train_lm,
    train_ppo,
    train_rm,
)
from instruct_jax.stages.chain import Chain, check_mesh, check_sections, stage_config
from instruct_jax.stages.collect import CollectSettings
from instruct_jax.stages.settings import SHARED, known_fields, section
from instruct_jax.training.optim import OptimizerConfig

SECTIONS = {
    "data": train_lm.DataSettings, "train": train_lm.TrainSettings, "optimizer": OptimizerConfig,
    "policy_optimizer": OptimizerConfig, "value_optimizer": OptimizerConfig, "ppo": PPOConfig,
    "collect": CollectSettings, "evaluate": sentiment_evaluate.EvaluateSettings,
}  # fmt: skip
OWN_SECTIONS = {
    "rm": {"data": train_rm.DataSettings, "train": train_rm.TrainSettings},
    "ppo": {"train": train_ppo.TrainSettings}, "ppo_ptx": {"train": train_ppo.TrainSettings},
}  # fmt: skip
STAGES = ("base", "sft", "collect", "rm", "ppo", "ppo_ptx", "evaluate")
FIELDS = (*SHARED, "profile", "reward_model", "sentiment", "init", *STAGES)

TITLE = "Sentiment: from openings to PPO-ptx"
ABOUT = (
    "Ziegler et al.\u2019s sentiment task. A prompt is the opening words of a sentence from a movie review; demonstrations are how "
    "their authors went on. The labeler that ranks samples for the reward model, and the gold judge that decides here, are two "
    "classifiers fitted on separate halves of people\u2019s ratings of such sentences; neither has read a sentence that the prompts on "
    "this page are cut from, and no training stage sees the gold judge. The gold score is its probability that prompt and response "
    "together are positive. Held-out text is the Brown corpus, whose other documents are PPO-ptx\u2019s pretraining text. Intervals are "
    "95\u202f% bootstraps over prompts or documents."
)


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    known_fields(config, FIELDS)
    if bool(config.init) == ("base" in config):
        raise InputError(
            "config.init: name the weights to start from, or leave it empty and add a section base"
        )
    check_sections(config, sentiment_data.SentimentSettings, "sentiment", STAGES, SECTIONS, OWN_SECTIONS)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Runs the chain as `config` says; ends with `workdir`/report. Run again, it resumes; a finished chain returns at once.

    Starts from the weights in config.init or, where the config has a section `base`, from a model that it trains on the documents.
    """
    if (workdir / "report" / "index.html").exists():
        print(f"already done: {workdir / 'report' / 'index.html'}")
        return
    check(config)
    check_mesh(config, STAGES, SECTIONS, OWN_SECTIONS)
    chain = Chain(workdir)

    def path(name):
        (workdir / name).mkdir(parents=True, exist_ok=True)
        return workdir / name

    def stage(name, run_stage, **fields):
        chain.stage(name, lambda: run_stage(stage_config(config, name, workdir, **fields), path(name)))

    sft, reward = str(workdir / "sft"), str(workdir / "rm" / "reward")
    chain.stage("data", lambda: sentiment_data.run(stage_config(config, "data_stage", workdir), workdir))
    if "base" in config:
        stage("base", train_lm.run, stage="pretrain", init="")
    base = str(workdir / "base") if "base" in config else config.init
    stage("sft", train_lm.run, stage="sft", init=base)
    stage("collect", sentiment_data.collect, policies={"sft": sft})
    chain.stage("rankings", lambda: builders.build(workdir / "records", workdir / "data"))
    stage("rm", train_rm.run, stage="rm", init=sft)
    runs = [name for name in ("ppo", "ppo_ptx") if name in config]
    for name in runs:
        stage(name, train_ppo.run, stage="ppo", init=sft, reward=reward)
    models = {"base": {"checkpoint": base}, "sft": {"checkpoint": sft}}
    for name in runs:
        train = section(config, f"{name}.train", train_ppo.TrainSettings)
        models[name] = {"checkpoint": str(workdir / name), "subtree": train.subtree}
    stage("evaluate", sentiment_evaluate.run, models=models, reward=reward)
    report(config, workdir, chain)


def report(config: ml_collections.ConfigDict, workdir: Path, chain: Chain) -> None:
    """Writes the report from what the stages left; the page last, so that its presence means that all is done."""
    evaluation = json.loads((workdir / "evaluate" / "evaluation.json").read_text())
    kinds = {"prompts": (Prompt, ("train", "valid", "test")), "demonstrations": (Demonstration, ("train", "valid")),
             "rankings": (Ranking, ("train", "valid"))}  # fmt: skip
    found = {
        kind: {s: read_jsonl(workdir / "records" / f"{kind}.{s}.jsonl", cls) for s in splits}
        for kind, (cls, splits) in kinds.items()
    }
    tokenizer = setup.load_tokenizer(section(config, "text", setup.TextSettings))
    card = data_card(found, tokenizer)
    data = {
        **evaluation,
        "title": TITLE,
        "about": ABOUT,
        "seed": config.seed,
        "wall_seconds": round(chain.wall(), 1),
        "peak_rss_bytes": peak_rss_bytes(),
        "matmul_gflops": round(matmul_gflops(), 1),
        "versions": versions(),
        "data_card": [card[name] for name in ("table_6", "table_9", "table_11")],
        "stages": [{"name": name, "seconds": round(spent, 1)} for name, spent in chain.seconds.items()],
        "config": {k: v for k, v in config.to_dict().items() if k != "stage"},
    }
    write_report(workdir / "report", data, chain.wall)
