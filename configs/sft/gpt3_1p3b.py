"""The SFT baseline of GPT-3 1.3B at the paper's values (App. C.1): 16 epochs, cosine to 10 %, no warm-up, residual dropout 0.2.

    python -m instruct_jax.main --config configs/sft/gpt3_1p3b.py --workdir runs/sft_1p3b --config.data.dir=… --config.init=…

Not run here: shapes are checked, nothing is claimed about results. The PPO-init model is the same with train.epochs 2,
data.pretraining_fraction 0.1, optimizer.learning_rate 5e-6 and model.dropout 0 (App. C.3).
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="sft",
            name="sft_1p3b",
            seed=0,
            wandb="",
            mesh=dict(data=1, fsdp=16, tensor=1, sequence=1),
            text=dict(tokenizer="", template="plain", max_prompt=1024, max_response=1024),
            model=dict(
                variant="gpt3_1p3b",
                attention="auto",
                context=2048,
                vocab=50257,
                dropout=0.2,
                dtype="bfloat16",
                remat="full",
            ),
            data=dict(dir="", kind="demonstrations", batch_size=32, pretraining_fraction=0.0),
            optimizer=dict(learning_rate=9.65e-6),
            train=dict(epochs=16.0, keep_epochs=True, offload=()),
            init="",
        )
    ).lock()
