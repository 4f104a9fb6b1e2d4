"""Home of one trial of the lab: SFT, the reward model or PPO trained anew beside a finished recipe, whose other models it shares.

For sweeps: the recipe takes minutes, a trial the part that it changes. What comes out is judged on validation prompts, so that
settings chosen by it leave the test prompts untouched; the paper chose by human ratings of prompts that it does not name.
"""

import json
from pathlib import Path

import jax
import ml_collections

from instruct_jax.data import builders
from instruct_jax.errors import InputError
from instruct_jax.evaluation import winrate
from instruct_jax.sharding import check_divides
from instruct_jax.stages import evaluate, lab_tasks, recipe, setup, train_lm, train_ppo, train_rm
from instruct_jax.stages.bench import Bench, Contender
from instruct_jax.stages.chain import Chain, check_mesh, check_sections, stage_config
from instruct_jax.stages.lab_data import LabSettings, make_lab
from instruct_jax.stages.settings import known_fields, section

PARTS = ("sft", "rm", "ppo")
FIELDS = ("stage", "name", "seed", "mesh", "wandb", "profile", "upstream", "evaluate", *PARTS)
NEEDED = ("config.json", "data", "records", "base", "ppo_init", "sft", "rm/reward", "select/select.json")


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself or for a recipe that is not finished; asks for no device."""
    known_fields(config, FIELDS)
    if sum(part in config for part in PARTS) != 1:
        raise InputError(
            f"config: a trial has exactly one section of {', '.join(PARTS)}: the part that it trains"
        )
    section(config, "evaluate", evaluate.EvaluateSettings)
    check_sections(_merged(config), LabSettings, "lab", PARTS, recipe.SECTIONS, recipe.OWN_SECTIONS)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains config's one part in `workdir`/<part>, judges it, and writes `workdir`/result.json, {metric: number}; run again, it
    resumes."""
    if (workdir / "result.json").exists():
        print(f"already done: {workdir / 'result.json'}")
        return
    check(config)
    part = next(name for name in PARTS if name in config)
    merged, upstream, folder = _merged(config), Path(config.upstream), workdir / part
    check_mesh(merged, (part,), recipe.SECTIONS, recipe.OWN_SECTIONS)
    mesh = setup.open_mesh(section(merged, "mesh", setup.MeshSettings))
    check_divides(config.evaluate.batch_size, mesh, "config.evaluate.batch_size")
    train, init = {
        "sft": (train_lm, str(upstream / "base")), "rm": (train_rm, recipe.reward_start(merged, upstream)),
        "ppo": (train_ppo, str(upstream / "ppo_init")),
    }[part]  # fmt: skip
    fields = {"stage": part, "init": init}
    if part == "ppo":
        fields["reward"] = str(upstream / "rm" / "reward")
    folder.mkdir(parents=True, exist_ok=True)
    chain = Chain(workdir)
    chain.stage(part, lambda: train.run(stage_config(merged, part, upstream, **fields), folder))

    def judge():
        judged = _judge_reward if part == "rm" else _judge_policy
        trained = json.loads((folder / "done.json").read_text())["metrics"]
        result = trained | judged(merged, upstream, part, folder)
        temporary = workdir / "result.json.tmp"
        temporary.write_text(json.dumps(result, indent=1) + "\n")
        temporary.replace(workdir / "result.json")

    chain.stage("judge", judge)


def _merged(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The recipe's config (its world, its models' shapes) with the trial's seed, mesh and section."""
    upstream = Path(config.upstream)
    missing = [name for name in NEEDED if not (upstream / name).exists()]
    if missing:
        raise InputError(
            f"config.upstream: no finished recipe in {upstream}, {missing[0]} is missing: run one first (bash "
            "launch/quickstart.sh), or name its folder"
        )
    merged = ml_collections.ConfigDict(json.loads((upstream / "config.json").read_text()))
    if merged.get("stage") != "recipe" or "lab" not in merged:
        raise InputError(f"config.upstream: {upstream} is no run of the lab's recipe")
    shared = {key: value for key, value in recipe.resolve(merged).items() if key not in recipe.STAGES}
    own = {key: value for key, value in config.items() if key not in ("stage", "upstream")}
    return ml_collections.ConfigDict({**shared, **own})


def _bench(config: ml_collections.ConfigDict) -> evaluate.LabBench:
    settings = section(config, "evaluate", evaluate.EvaluateSettings)
    lab = make_lab(section(config, "lab", LabSettings), section(config, "text", setup.TextSettings))
    return evaluate.LabBench(Bench(config, settings.batch_size), lab, settings)


def _judge_policy(config, upstream: Path, part: str, folder: Path) -> dict[str, float]:
    """The trained policy beside the recipe's SFT model on validation prompts, and what it kept of its pretraining."""
    bench = _bench(config)
    chosen = json.loads((upstream / "select" / "select.json").read_text())["sft"]["best"]
    subtree = "params"
    if part == "ppo":
        subtree = section(config, "ppo.train", train_ppo.TrainSettings).subtree
    contenders = {
        "reference": Contender(str(upstream / "ppo_init")),
        "sft": Contender(str(upstream / "sft"), step=int(chosen)),
        "trained": Contender(str(folder), subtree),
    }
    prompts = bench.lab.sets["ppo_valid"][: bench.settings.prompts]
    documents = [d.text for d in builders.open_source(str(upstream / "data"), "documents", "valid")]
    with jax.set_mesh(bench.models.mesh):
        reward = setup.load(str(upstream / "rm" / "reward"), bench.models.scalar, bench.models.mesh)
        judged, kl = evaluate.judge_models(bench, contenders, reward, prompts)
        tasks = lab_tasks.evaluate(bench, {"trained": contenders["trained"]}, documents)["trained"]
    won, lengths = winrate.win_rates(judged)["trained"], winrate.length_stats(judged)["trained"]
    own = [row for row in judged if row.model == "trained"]
    result = {
        "judged/preferred": won["mean"],
        "judged/preferred_decided": won["non_tie_mean"],
        "judged/likert": winrate.likert_means(own)["trained"]["mean"],
        "judged/rm_score": winrate.interval([row.rm_score for row in own])["mean"],
        "judged/kl": kl["trained"],
        "judged/length": lengths["mean"],
        "judged/finished": lengths["finished"],
    }
    result |= {f"flags/{name}": rate["mean"] for name, rate in winrate.flag_rates(own)["trained"].items()}
    result |= {f"tasks/{name.replace(' ', '_')}": value["mean"] for name, value in tasks.items()}
    return result | _base_tasks(upstream)


def _base_tasks(upstream: Path) -> dict[str, float]:
    """What the recipe measured on its base model, for the dashed lines of Figs. 33 and 34; nothing where it has not evaluated."""
    path = upstream / "evaluate" / "evaluation.json"
    found = json.loads(path.read_text())["pretraining_tasks"].get("base", {}) if path.exists() else {}
    return {f"base/{name.replace(' ', '_')}": value["mean"] for name, value in found.items()}


def _judge_reward(config, upstream: Path, part: str, folder: Path) -> dict[str, float]:
    """How often the reward model orders labelers' validation pairs as they did, and how often two labelers agree."""
    bench = _bench(config)
    with jax.set_mesh(bench.models.mesh):
        reward = setup.load(str(folder / "reward"), bench.models.scalar, bench.models.mesh)
        found = evaluate.judge_reward_model(bench, upstream / "records", reward)
    result = {f"judged/accuracy_{pool}": value["mean"] for pool, value in found["rm_accuracy"].items()}
    return result | {
        "labelers/agreement_training": found["labeler_agreement"]["mean"],
        "labelers/agreement_heldout": found["labeler_agreement_heldout"]["mean"],
    }
