"""One reward model of the quickstart with other settings, from its SFT model and rankings: what the sweep lab_rm_lr varies.

    python -m instruct_jax.main --config configs/lab/trial_rm.py --workdir runs/trial --config.rm.optimizer.learning_rate=3e-4

Needs a finished recipe in `upstream` (bash launch/quickstart.sh). Its accuracy is that on labelers' validation pairs; result.json
has the numbers.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="lab_trial",
            name="trial_rm",
            seed=0,
            wandb="",
            mesh=dict(data=-1, fsdp=1, tensor=1),
            upstream="runs/quickstart",
            rm=dict(
                data=dict(dir="", batch_size=16, k_max=9, shared_prompts=True),
                optimizer=dict(learning_rate=1e-3, eps=1e-8),
                train=dict(epochs=1.0),
            ),
            evaluate=dict(prompts=300, batch_size=150, curve_prompts=0, task_items=150, max_prompt=96),
        )
    ).lock()
