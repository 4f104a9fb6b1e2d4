"""The recipe at the smallest size at which every stage does real work; its numbers mean nothing."""

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
            stage="recipe",
            name="tiny",
            seed=0,
            mesh=dict(data=1, fsdp=1, tensor=1),
            text=dict(tokenizer="", template="plain", max_prompt=64, max_response=16),
            model=dict(variant="tiny", context=112),
            reward_model=dict(variant="tiny", context=112),
            lab=dict(
                world_seed=0, prompts=900, users=90, documents=400, valid_documents=40, labelers=3,
                heldout_labelers=2, few_shot=3, flan=60,
            ),
            base=dict(
                data=dict(dir="", kind="documents", batch_size=16, valid_batch_size=4),
                optimizer=lm,
                train=dict(steps=4, valid_batches=1),
            ),
            ppo_init=dict(
                data=dict(dir="", kind="demonstrations", batch_size=20, valid_batch_size=2, pretraining_fraction=0.1),
                optimizer=lm,
                train=dict(steps=4, valid_batches=1),
            ),
            sft=dict(
                model=dict(dropout=0.2),
                data=dict(dir="", kind="demonstrations", batch_size=64, valid_batch_size=2),
                optimizer=lm,
                train=dict(epochs=2, keep_epochs=True, valid_batches=1),
            ),
            flan=dict(
                data=dict(dir="", kind="demonstrations", split="flan", batch_size=20, valid_batch_size=2),
                optimizer=lm,
                train=dict(epochs=1, keep_epochs=True, valid_batches=1),
            ),
            collect=dict(collect=dict(k_min=4, k_max=5, batch_size=64)),
            rm=dict(data=dict(dir="", batch_size=16, k_max=9, shared_prompts=True), optimizer=lm, train=dict(epochs=1)),
            select=dict(select=dict(prompts=16, batch_size=16, max_prompt=88)),
            ppo=dict(
                policy_optimizer=ppo, value_optimizer=ppo, ppo=dict(kl_coef=0.02, ptx_coef=0.0), train=ppo_train
            ),
            ppo_ptx=dict(
                policy_optimizer=ppo, value_optimizer=ppo, ppo=dict(kl_coef=0.02, ptx_coef=1.0), train=ppo_train
            ),
            evaluate=dict(
                evaluate=dict(prompts=32, batch_size=32, curve_prompts=16, task_items=16, max_prompt=88)
            ),
        )
    ).lock()  # fmt: skip
