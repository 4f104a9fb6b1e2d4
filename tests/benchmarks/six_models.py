"""How long it takes to evaluate six models of a study on the quickstart's lab: base, prompted, FLAN/T0-style, SFT, PPO and PPO-ptx.

    bash launch/quickstart.sh && bash launch/lab_study.sh --seed 0
    source launch/env.sh
    PYTHONPATH=. .venv/bin/python tests/benchmarks/six_models.py runs/lab_study/seed_0 runs/quickstart

What is timed is the recipe's own stage in a fresh process, its compiling included, with the quickstart's lab and numbers of prompts and
items: the lab is made anew, every model (SFT twice) answers 500 prompts of held-out users, which the gold judge and the reward model
mark, with its KL to the reference and four models' scores on the pretraining tasks; the reward model is held against people's rankings. The
curves over training are left out: they are of checkpoints. No rates are printed, since the study may have trained on these prompts.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.perf_counter()


def main(study: Path, quickstart: Path) -> None:
    """Prints the seconds of each part."""
    from configs.lab import quickstart as small
    from configs.lab import study as large
    from instruct_jax.stages import evaluate, recipe
    from instruct_jax.stages.chain import stage_config
    from instruct_jax.stages.settings import section
    from instruct_jax.stages.train_ppo import TrainSettings

    config = large.get_config()
    with config.unlocked():
        config.lab, config.evaluate = small.get_config().lab, small.get_config().evaluate
        config.evaluate.evaluate.curve_prompts = 0
    config = recipe.resolve(config)
    chosen = json.loads((study / "select" / "select.json").read_text())
    runs = {name: section(config, f"{name}.train", TrainSettings).subtree for name in ("ppo", "ppo_ptx")}
    ready = stage_config(
        config, "evaluate", quickstart, models=recipe.contenders(study, chosen, runs), reward=str(study / "rm" / "reward"), curves={},
        task_models=("base", "sft", *runs),
    )  # fmt: skip
    imported = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        evaluate.run(ready, Path(out))
        found = json.loads((Path(out) / "evaluation.json").read_text())["win_rate_vs_sft"]
    done = time.perf_counter()
    print(
        f"{len(found)} models, {found['sft']['n']} prompts each: {done - BEGAN:.1f} s, {imported - BEGAN:.1f} of them imports"
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
