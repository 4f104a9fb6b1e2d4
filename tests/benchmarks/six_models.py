"""How long it takes to evaluate the six models of a study: base, prompted, FLAN/T0-style, SFT, PPO and PPO-ptx.

    bash launch/lab_study.sh --seed 0
    source launch/env.sh && PYTHONPATH=. .venv/bin/python tests/benchmarks/six_models.py runs/lab_study/seed_0

What is timed is the recipe's own stage in a fresh process, its compiling included, with the quickstart's numbers of prompts and items:
the lab is made anew, every model (SFT twice) answers 500 prompts of held-out users, which the gold judge and the reward model mark, with
its KL to the reference and four models' scores on the pretraining tasks; the reward model is held against people's rankings. The curves over
training, which are of checkpoints and not of the six models, are left out. The seconds are printed with those of importing and of the lab.
"""

import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.perf_counter()


def main(folder: Path) -> None:
    """Prints the seconds of each part."""
    import json

    from configs.lab import quickstart, study
    from instruct_jax.stages import evaluate, recipe, setup
    from instruct_jax.stages.chain import stage_config
    from instruct_jax.stages.lab_data import LabSettings, make_lab
    from instruct_jax.stages.settings import section
    from instruct_jax.stages.train_ppo import TrainSettings

    config = study.get_config()
    with config.unlocked():
        config.seed = json.loads((folder / "config.json").read_text())["seed"]
        sizes = quickstart.get_config().evaluate.evaluate
        config.evaluate.evaluate.update(sizes.to_dict() | {"curve_prompts": 0})
    config = recipe.resolve(config)
    chosen = json.loads((folder / "select" / "select.json").read_text())
    runs = {name: section(config, f"{name}.train", TrainSettings).subtree for name in ("ppo", "ppo_ptx")}
    models = recipe.contenders(folder, chosen, runs)
    ready = stage_config(
        config, "evaluate", folder, models=models, reward=str(folder / "rm" / "reward"), curves={},
        task_models=("base", "sft", "ppo", "ppo_ptx"),
    )  # fmt: skip
    imported = time.perf_counter()
    make_lab(section(ready, "lab", LabSettings), section(ready, "text", setup.TextSettings))
    made = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        evaluate.run(ready, Path(out))
        done = time.perf_counter()
        found = json.loads((Path(out) / "evaluation.json").read_text())
    for name, rate in found["win_rate_vs_sft"].items():
        print(
            f"{name:10} preferred to SFT {rate['mean']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}], n = {rate['n']}"
        )
    print(
        f"{done - BEGAN:.1f} s: import {imported - BEGAN:.1f}, the lab {made - imported:.1f}, evaluation {done - made:.1f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
