"""A reward model from what people ranked in the labeling application, on the quickstart's SFT model.

    python -m instruct_jax.main --config configs/rm/human.py --workdir runs/human_rm/rm

Before it: configs/rm/human_outputs.py, whose docstring ends in the data set that `data.dir` names. `text` and `model` are those of
the checkpoint in `init`. Where people wrote demonstrations too, demonstrations_split="train" centres the scores on them (App. C.2).
A ranking of one text alone says nothing and is not exported, so rows can be fewer than tasks; batch_size must not exceed them.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="rm",
            name="human_rm",
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
            data=dict(dir="runs/human_rm/data", batch_size=8, k_max=9, demonstrations_split=None),
            optimizer=dict(learning_rate=1e-3, eps=1e-8),
            train=dict(epochs=1.0, log_every=5),
            init="runs/quickstart/sft",
        )
    ).lock()
