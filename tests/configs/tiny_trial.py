"""A trial beside a finished tiny_recipe, of the part that is named after a colon and has tiny_recipe's own fields."""

from ml_collections import ConfigDict


def get_config(part="ppo"):
    ppo = dict(learning_rate=1e-4, schedule="constant", warmup_steps=1)
    parts = dict(
        sft=dict(
            model=dict(dropout=0.2),
            data=dict(dir="", kind="demonstrations", batch_size=64, valid_batch_size=2),
            optimizer=dict(learning_rate=1e-3),
            train=dict(epochs=2.0, keep_epochs=True, valid_batches=1),
        ),
        rm=dict(
            data=dict(dir="", batch_size=16, k_max=9, shared_prompts=True),
            optimizer=dict(learning_rate=1e-3),
            train=dict(epochs=1.0),
        ),
        ppo=dict(
            policy_optimizer=ppo,
            value_optimizer=ppo,
            ppo=dict(kl_coef=0.02, ptx_coef=1.0),
            train=dict(
                episodes=32,
                batch_size=16,
                minibatch_size=8,
                ptx_ratio=1,
                ptx_length=80,
                save_every=1,
                ema_decay=0.9,
            ),
        ),
    )
    return ConfigDict(
        {
            "stage": "lab_trial",
            "name": f"tiny_{part}",
            "seed": 0,
            "wandb": "",
            "mesh": dict(data=1, fsdp=1, tensor=1),
            "upstream": "",
            part: parts[part],
            "evaluate": dict(prompts=32, batch_size=32, curve_prompts=0, task_items=16, max_prompt=88),
        }
    ).lock()
