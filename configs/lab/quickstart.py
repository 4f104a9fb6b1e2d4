"""The whole recipe on the lab in a few minutes on two cores: base, prompted, SFT and PPO-ptx, judged.

    python -m instruct_jax.main --config configs/lab/quickstart.py --workdir runs/quickstart

README, "What has run", says what came out and how long it took. The study (configs/lab/study.py) adds PPO without ptx and the
FLAN-style baseline, more data and longer training.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="recipe",
            name="quickstart",
            seed=0,
            wandb="",
            mesh=dict(data=-1, fsdp=1, tensor=1),
            text=dict(tokenizer="", template="plain", max_prompt=48, max_response=32),
            model=dict(variant="lab", context=128, logit_chunk=8192),
            reward_model=dict(variant="lab", context=128, logit_chunk=8192),
            lab=dict(
                world_seed=0,
                prompts=13_000,
                users=800,
                documents=20_000,
                valid_documents=400,
                labelers=8,
                heldout_labelers=5,
                sft_share=0.4,
                rm_share=0.45,
                prefix_share=0.92,
            ),
            ppo_init=dict(
                data=dict(
                    dir="", kind="demonstrations", packed=True, batch_size=16, pretraining_fraction=0.1
                ),
                optimizer=dict(learning_rate=1e-3),
                train=dict(epochs=2.0, save_every=1_000),
            ),
            sft=dict(
                model=dict(dropout=0.2),
                data=dict(dir="", kind="demonstrations", packed=True, batch_size=16),
                optimizer=dict(learning_rate=1e-3),
                train=dict(epochs=3.0, keep_epochs=True),
            ),
            collect=dict(collect=dict(k_min=4, k_max=9, batch_size=256)),
            rm=dict(
                data=dict(dir="", batch_size=16, k_max=9, shared_prompts=True),
                optimizer=dict(learning_rate=1e-3, eps=1e-8),
                train=dict(epochs=1.0),
            ),
            select=dict(select=dict(prompts=128, batch_size=128, max_prompt=96)),
            ppo_ptx=dict(
                policy_optimizer=dict(learning_rate=3e-4, schedule="constant", warmup_steps=5),
                value_optimizer=dict(learning_rate=1e-3, schedule="constant", warmup_steps=5),
                ppo=dict(kl_coef=0.1, ptx_coef=0.5),
                train=dict(
                    episodes=4_096,
                    batch_size=256,
                    minibatch_size=64,
                    ptx_ratio=1,
                    ptx_length=64,
                    save_every=4,
                    keep=10,
                    ema_decay=0.95,
                ),
            ),
            evaluate=dict(
                evaluate=dict(prompts=500, batch_size=256, curve_prompts=150, task_items=150, max_prompt=96)
            ),
        )
    ).lock()
