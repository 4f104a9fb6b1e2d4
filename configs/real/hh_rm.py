"""A reward model on 2,000 human preferences of HH-RLHF, from SmolLM2-135M's weights: three seeds, beside a length-only baseline.

    bash launch/fetch_data.sh --from FOLDER smollm2 hh_rlhf
    python -m instruct_jax.main --config configs/real/hh_rm.py --workdir runs/hh_rm

One epoch, as in the paper. A trained token costs 690 MFLOP: six for each of the layers' 106M weights, and 8 % more for attention. A
seed trains on about 1,040 pairs, 66 steps of 16 rows of 256 tokens: 190 TFLOP, 20 minutes at 150 GFLOP/s. All pairs of up to 512
tokens are tested, 15 TFLOP. With text.max_prompt=320 and text.max_response=192 nine tenths of the pairs are trained on, for 3 times
the cost. remat="dots" makes 7 GB of memory of 14, for 3 % more work. To choose a learning rate, on a part of the training pairs:

    ... --workdir runs/hh_tune_3e-5 --config.hh.tune=True --config.hh.seeds='(100,)' --config.optimizer.learning_rate=3e-5
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="hh",
            name="hh_rm",
            mesh=dict(data=-1, fsdp=1, tensor=1),
            text=dict(
                tokenizer="$INSTRUCT_JAX_DATA/smollm2-135m-instruct.gguf",
                template="verbatim",
                max_prompt=128,
                max_response=128,
            ),
            model=dict(pretrained="$INSTRUCT_JAX_DATA/smollm2-135m-instruct.gguf", context=512, remat="dots"),
            init="$INSTRUCT_JAX_DATA/smollm2-135m-instruct.gguf",
            hh=dict(
                pairs="$INSTRUCT_JAX_DATA/hh_rlhf/harmless-base.first2000.jsonl",
                held_out=200,
                seeds=(0, 1, 2),
                max_tokens=512,
                batch_size=8,
                tune=False,
            ),
            data=dict(dir="", batch_size=16, k_max=2, demonstrations_split=None),
            optimizer=dict(learning_rate=3e-5, warmup_steps=5, grad_clip=1.0),
            train=dict(epochs=1.0, log_every=5, save_every=1000),
        )
    ).lock()
