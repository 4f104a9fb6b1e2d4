"""Pretrains the larger base that the study's reward model starts from; shipped beside the policy's in instruct_jax/data/lab/assets.

    python -m instruct_jax.main --config configs/pretrain/lab_reward.py --workdir runs/pretrain_reward

The corpus and tokenizer of configs/pretrain/lab.py; 2.8M parameters, 28M tokens, an hour on two idle cores. Ends with
lab_reward.safetensors in the workdir, in float16 so that both bases stay under 10 MB.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.stage = "lab_base"
    config.name = "pretrain_reward"
    config.seed = 0
    config.wandb = ""
    config.corpus = ConfigDict(dict(world_seed=0, documents=160_000, valid_documents=1_000))
    config.tokenizer = ConfigDict(dict(vocab=768, texts=20_000))
    config.model = ConfigDict(dict(variant="lab_reward", context=128, logit_chunk=8192))
    config.text = ConfigDict(dict(tokenizer="", template="plain", max_prompt=96, max_response=32))
    config.data = ConfigDict(dict(dir="", kind="documents", batch_size=48))
    config.optimizer = ConfigDict(
        dict(learning_rate=2e-3, warmup_steps=100, warmup_start=0.01, grad_clip=1.0, eps=1e-8, tf_style=False)
    )
    config.train = ConfigDict(dict(steps=4_600, log_every=50, save_every=150, valid_batches=8))
    config.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1))
    config.export = ConfigDict(dict(dtype="float16"))
    config.init = ""
    return config.lock()
