"""The full study on the lab: every model of the paper's Fig. 1, judged. README, "What has run", has the seeds that ran.

    bash launch/lab_study.sh --seed 0

Adds to the quickstart plain PPO, the instruction mixture that stands for FLAN/T0, more data and longer training. Of prompts, 2.6 are
ranked for one that is demonstrated, as in the paper's Table 6. The world and the base models are the same for every seed; users,
labelers, demonstrations, sampling and training differ.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="recipe",
            name="study",
            seed=0,
            wandb="",
            mesh=dict(data=-1, fsdp=1, tensor=1),
            text=dict(tokenizer="", template="plain", max_prompt=48, max_response=32),
            model=dict(variant="lab", context=128, logit_chunk=8192),
            reward_model=dict(variant="lab_reward", context=128, logit_chunk=8192),
            lab=dict(
                world_seed=0,
                prompts=130_000,
                users=7_800,
                documents=20_000,
                valid_documents=400,
                labelers=8,
                heldout_labelers=5,
                sft_share=0.25,
                rm_share=0.65,
                flan=2_000,
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
                train=dict(epochs=5.0, keep_epochs=True),
            ),
            flan=dict(
                data=dict(dir="", kind="demonstrations", split="flan", packed=True, batch_size=16),
                optimizer=dict(learning_rate=1e-3),
                train=dict(epochs=2.0, keep_epochs=True),
            ),
            collect=dict(collect=dict(k_min=4, k_max=9, batch_size=256)),
            rm=dict(
                data=dict(dir="", batch_size=16, k_max=9, shared_prompts=True),
                optimizer=dict(learning_rate=3e-4, eps=1e-8),
                train=dict(epochs=1.0),
            ),
            select=dict(select=dict(prompts=192, batch_size=192, max_prompt=96)),
            ppo=dict(
                policy_optimizer=dict(learning_rate=3e-4, schedule="constant", warmup_steps=5),
                value_optimizer=dict(learning_rate=7e-4, schedule="constant", warmup_steps=5),
                ppo=dict(kl_coef=0.1, ptx_coef=0.0),
                train=dict(
                    episodes=6_144,
                    batch_size=256,
                    minibatch_size=64,
                    ptx_ratio=1,
                    ptx_length=96,
                    save_every=6,
                    keep=10,
                    ema_decay=0.95,
                ),
            ),
            ppo_ptx=dict(
                policy_optimizer=dict(learning_rate=3e-4, schedule="constant", warmup_steps=5),
                value_optimizer=dict(learning_rate=7e-4, schedule="constant", warmup_steps=5),
                ppo=dict(kl_coef=0.1, ptx_coef=0.5),
                train=dict(
                    episodes=6_144,
                    batch_size=256,
                    minibatch_size=64,
                    ptx_ratio=1,
                    ptx_length=96,
                    save_every=6,
                    keep=10,
                    ema_decay=0.95,
                ),
            ),
            evaluate=dict(
                evaluate=dict(prompts=1_000, batch_size=200, curve_prompts=200, task_items=300, max_prompt=96)
            ),
        )
    ).lock()
