r"""PPO-ptx of GPT-3 1.3B at the paper's values (App. C.4): 256k episodes, 512 an iteration, minibatches of 64, 6B reward and value.

    python -m instruct_jax.main --config configs/ppo/gpt3_1p3b.py --workdir runs/ppo_1p3b \
        --config.data_dir=… --config.init=… --config.reward=…

The paper sweeps the peak learning rate and does not print the winner; this is the grid's middle. Plain PPO: ppo.ptx_coef 0.
Never run: its mesh and the sizes of its pieces are those with which it compiles for v5e:4x4 and fits (docs/compile_ahead.md).
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="ppo",
            name="ppo_1p3b",
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
            reward_model=dict(
                variant="gpt3_6b", attention="auto", context=2048, vocab=50257, dtype="bfloat16", remat="full"
            ),
            policy_optimizer=dict(learning_rate=8.05e-6, schedule="constant", warmup_steps=10),
            value_optimizer=dict(learning_rate=9e-6, schedule="constant", warmup_steps=10),
            ppo=dict(kl_coef=0.02, ptx_coef=27.8, clip=0.2, gamma=1.0, lam=0.95, temperature=1.0),
            train=dict(
                episodes=256_000,
                batch_size=512,
                minibatch_size=64,
                offload=(),
                ptx_ratio=8,
                ptx_length=2048,
                ema_decay=0.992,
                rollout_size=64,
                microbatch_size=16,
                ptx_microbatch_size=16,
            ),
            data_dir="",
            init="",
            reward="",
        )
    ).lock()
