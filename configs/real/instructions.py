"""8 models' answers to Self-Instruct's 252 expert instructions, ranked by rules and loaded as the reward model's batches.

    bash launch/fetch_data.sh --from FOLDER smollm2 self_instruct
    python -m instruct_jax.main --config configs/real/instructions.py --workdir runs/instructions

Seconds on two CPU cores; the tables are printed and lie in the run's README.md.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="instructions",
            name="self_instruct",
            seed=0,
            text=dict(
                tokenizer="$INSTRUCT_JAX_DATA/smollm2-135m-instruct.gguf",
                template="verbatim",
                max_prompt=512,
                max_response=512,
            ),
            instructions=dict(folder="$INSTRUCT_JAX_DATA/self_instruct", batch_size=8),
        )
    ).lock()
