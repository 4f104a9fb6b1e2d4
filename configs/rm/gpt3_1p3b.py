"""A reward model of GPT-3 1.3B's shape at the paper's values (App. C.2): 64 prompts a batch, all pairs of K = 4 to 9, one epoch.

    python -m instruct_jax.main --config configs/rm/gpt3_1p3b.py --workdir runs/rm_1p3b --config.data.dir=… --config.init=…

The paper's only reward model is the 6B one; it serves every policy size. Not run here: shapes are checked.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="rm",
            name="rm_1p3b",
            seed=0,
            wandb="",
            mesh=dict(data=1, fsdp=16, tensor=1, sequence=1),
            text=dict(tokenizer="", template="plain", max_prompt=1024, max_response=1024),
            model=dict(
                variant="gpt3_1p3b",
                attention="auto",
                context=2048,
                vocab=50257,
                dtype="bfloat16",
                remat="full",
            ),
            data=dict(dir="", batch_size=64, k_max=9),
            optimizer=dict(learning_rate=9e-6),
            train=dict(epochs=1.0, divide_by="all_pairs", offload=()),
            init="",
        )
    ).lock()
