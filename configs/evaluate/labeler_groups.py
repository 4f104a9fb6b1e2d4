"""How the lab's reward model does for labelers it has never seen (paper E.2): five reward models, each trained without a fifth of the
labelers. docs/results/evaluation has what came out.

    bash launch/quickstart.sh
    python -m instruct_jax.main --config configs/evaluate/labeler_groups.py --workdir runs/labeler_groups

For people's rankings: `groups.rankings` takes the labeling application's exports, `init` any policy with its `text` and `model`.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="labeler_groups",
            name="labeler_groups",
            seed=0,
            wandb="",
            mesh=dict(data=-1, fsdp=1, tensor=1),
            text=dict(
                tokenizer="instruct_jax/data/lab/assets/tokenizer.model",
                template="plain",
                max_prompt=48,
                max_response=32,
            ),
            model=dict(variant="lab", context=128, logit_chunk=8192),
            data=dict(dir="", batch_size=16, k_max=9),
            optimizer=dict(learning_rate=1e-3, eps=1e-8),
            train=dict(epochs=1.0),
            init="runs/quickstart/sft",
            groups=dict(
                rankings=("runs/quickstart/records/rankings.train.jsonl",),
                prompts=("runs/quickstart/records/prompts.train.jsonl",),
                groups=5,
                held_out=0.15,
                batch_size=64,
            ),
        )
    ).lock()
