"""Malformed configs of the stages behind SFT: reward model, PPO, recipe, and those that compare runs."""

import ast
import re

from hostile_world import CONFIG, Case, write

SOUND = ["--config", "stage.py", "--workdir", "out"]
HEAD, TAIL = "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict(", ")\n"
SHARED = """dict(
    stage="STAGE", name="hostile", seed=0, mesh=dict(data=1, fsdp=1, tensor=1),
    text=dict(tokenizer="tokenizer.model", template="plain", max_prompt=16, max_response=16),
    model=dict(variant="tiny", context=32),
"""
RM = SHARED.replace("STAGE", "rm") + """    data=dict(dir="data", batch_size=4, k_max=2),
    optimizer=dict(learning_rate=1e-3),
    train=dict(epochs=1.0, divide_by="valid_pairs"),
    saving=dict(),
    init="run",
)"""  # fmt: skip
PPO = SHARED.replace("STAGE", "ppo") + """    reward_model=dict(variant="tiny", context=32),
    policy_optimizer=dict(learning_rate=1e-3), value_optimizer=dict(learning_rate=1e-3),
    ppo=dict(ptx_coef=1.0),
    train=dict(episodes=16, batch_size=8, minibatch_size=4, ptx_length=32),
    data_dir="data", init="run", reward="run",
)"""  # fmt: skip
RECIPE = SHARED.replace("STAGE", "recipe") + """    reward_model=dict(variant="tiny", context=32),
    lab=dict(world_seed=0, prompts=900, users=90, documents=400, valid_documents=40, labelers=3, heldout_labelers=2,
             few_shot=3, flan=60),
    sft=dict(optimizer=dict(learning_rate=1e-3), data=dict(dir="", kind="demonstrations", batch_size=8), train=dict(epochs=1)),
)"""  # fmt: skip
TAX = 'dict(stage="tax", name="t", seed=0, base="base", runs=dict(a=dict(path="run", size=1.0)))'
BENCHMARK = 'dict(stage="benchmark", name="b", seed=0, mesh=dict(data=1), models=("run",), benchmark=dict(data=("data",)))'


def stage(name, text, *says):
    """A config file that holds this dict."""
    return Case(f"stage-{name}", "main", SOUND, says, write("stage.py", HEAD + text + TAIL))


def edited(text, name, value=None):
    """The text with another value of a dotted field, or without it."""
    *path, last = name.split(".")
    tree = ast.parse(text, mode="eval")
    call = tree.body
    for part in path:
        call = next(keyword.value for keyword in call.keywords if keyword.arg == part)
    call.keywords = [keyword for keyword in call.keywords if keyword.arg != last]
    if value is not None:
        call.keywords.append(ast.keyword(last, ast.parse(value, mode="eval").body))
    return ast.unparse(tree)


def given(kind, text, name, value, says=None):
    """A config in which one field is something else."""
    return stage(f"{kind}-{name}={value}", edited(text, name, value), says or name.rpartition(".")[2])


PPO_FIELDS = {
    "ppo.clip": ["0.0", "-0.2", "float('nan')", "'x'", "None"],
    "ppo.value_clip": ["0.0", "-1.0"],
    "ppo.gamma": ["1.5", "-0.1", "float('nan')"],
    "ppo.lam": ["2.0", "float('inf')"],
    "ppo.kl_coef": ["-0.02", "float('inf')"],
    "ppo.adaptive_kl_target": ["0.0", "-6.0"],
    "ppo.adaptive_kl_horizon": ["0.0"],
    "ppo.temperature": ["0.0", "-1.0", "float('nan')"],
    "ppo.ptx_coef": ["-1.0", "'much'"],
    "ppo.value_coef": ["-1.0"],
    "ppo.whiten_rewards": ["1"],
    "train.episodes": ["0", "-16", "17"],
    "train.batch_size": ["0", "-8", "12"],
    "train.minibatch_size": ["0", "-4", "3"],
    "train.inner_epochs": ["0", "-1"],
    "train.ema_decay": ["1.0", "-0.1", "float('nan')"],
    "train.ptx_ratio": ["0", "-1"],
    "train.ptx_length": ["0", "-32"],
    "train.rollout_size": ["0", "3"],
    "train.microbatch_size": ["0", "3"],
    "train.ptx_microbatch_size": ["0", "5"],
    "train.refill": ["3"],
    "train.offload": ["('moments',)", "'optimizer'"],
    "train.log_every": ["0"],
    "train.save_every": ["0"],
    "train.keep": ["0"],
    "policy_optimizer.learning_rate": ["-1.0"],
    "value_optimizer.b2": ["1.0"],
}  # fmt: skip
RM_FIELDS = {
    "train.epochs": ["0.0", "-1.0", "float('nan')", "float('inf')", "'one'"],
    "train.divide_by": ["'pairs'", "3"],
    "train.microbatch_size": ["3"],
    "train.log_every": ["0"],
    "train.save_every": ["-1"],
    "data.batch_size": ["0", "-4"],
    "data.k_max": ["0", "1", "-1"],
    "data.split": ["'none'"],
    "saving.keep_every": ["0"],
}  # fmt: skip

CASES = [
    *(given("ppo", PPO, field, value) for field, values in PPO_FIELDS.items() for value in values),
    *(
        given("rm", RM, field, value)
        for field, values in RM_FIELDS.items()
        for value in values
    ),
    *(given("recipe", RECIPE, name, "3", f"config.{name}") for name in ("sft", "text", "lab", "model", "saving", "mesh")),
    given("recipe", RECIPE, "text.tokenizer", "3"),
    given("recipe", RECIPE, "sft.model", "3", "config.sft.model"),
    given("recipe", RECIPE, "sft.trian", "dict(epochs=1)", "did you mean train"),
    given("tax", TAX, "runs", "('run',)", "config.runs"),
    given("tax", TAX, "base", "3"),
    given("benchmark", BENCHMARK, "models", "3"),
    given("benchmark", BENCHMARK, "models", "(3,)"),
    given("benchmark", BENCHMARK, "models", "()"),
    *(
        stage(f"{kind}-without-{field}", edited(text, field), f"no field '{field}'")
        for kind, text, fields in (("ppo", PPO, ("seed", "name", "data_dir", "init")), ("rm", RM, ("seed",)))
        for field in fields
    ),
    *(
        Case(f"sft-without-{field}", "main", ["--config", "config.py", "--workdir", "out"], (f"no field '{field}'",),
             write("config.py", re.sub(rf"\b{field}=[^,]*,\n", "", CONFIG)))
        for field in ("seed", "name", "init")
    ),
]  # fmt: skip
