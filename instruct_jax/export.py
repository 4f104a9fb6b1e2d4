"""Hand a model on: a checkpoint as a folder that Hugging Face transformers loads.

    python -m instruct_jax.export --model runs/quickstart/ppo_ptx --out out/ppo_ptx
    python -m instruct_jax.export --model runs/quickstart/rm/reward --out out/reward --dtype bfloat16

--model is a run's folder, a Hugging Face folder or a .gguf file. A policy is written for AutoModelForCausalLM, a reward model for
AutoModelForSequenceClassification, each with its tokenizer and chat template; that of a run frames prompts as in its training. Exit
status: 0 done, 2 bad input.
"""

import sys
from pathlib import Path

from absl import flags

from instruct_jax.errors import InputError, explain


def make_flags() -> flags.FlagValues:
    """The command line's flags, not yet parsed."""
    values = flags.FlagValues()
    flags.DEFINE_string("model", None, "Run folder, Hugging Face folder or .gguf file.", flag_values=values)
    flags.DEFINE_string("out", None, "Folder to write, which must not be there yet.", flag_values=values)
    flags.DEFINE_enum(
        "dtype",
        "float32",
        ["float32", "bfloat16", "float16"],
        "What parameters are stored as.",
        flag_values=values,
    )
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


def parse(argv: list[str]) -> flags.FlagValues | None:
    """The parsed flags, None when help was asked for; InputError for anything wrong."""
    values = make_flags()
    if any(word in ("--help", "-h", "-help") for word in argv[1:]):
        print(f"{__doc__}\nFlags:\n{values.get_help()}")
        return None
    try:
        rest = values(argv)
    except flags.Error as error:
        raise InputError(str(error)) from error
    if rest[1:]:
        raise InputError(f"{rest[1]!r} belongs to no flag")
    for name in ("model", "out"):
        if not values[name].value:
            raise InputError(f"--{name} is missing: python -m instruct_jax.export --model RUN --out FOLDER")
    return values


def run(values: flags.FlagValues) -> None:
    """Opens the model, writes the folder and says what it wrote."""
    from instruct_jax.pretrained.export import export_policy, export_reward
    from instruct_jax.stages import setup
    from instruct_jax.text.saving import save_tokenizer, special_ids
    from instruct_jax.text.templates import as_jinja

    opened = setup.open_model(values.model)
    tokenizer = setup.load_tokenizer(setup.TextSettings(opened.tokenizer, opened.template, 1, 1))
    if opened.template != "chat":  # a run's own, whatever came with its tokenizer
        own = setup.template(opened.template, tokenizer)
        tokenizer.chat_template = as_jinja(own, begins=tokenizer.bos_id is not None)
    params = opened.load(setup.open_mesh(setup.MeshSettings()))
    write = export_reward if opened.scalar else export_policy
    write(params, opened.config, values.out, dtype=values.dtype, special_ids=special_ids(tokenizer),
          write_tokenizer=lambda folder: save_tokenizer(tokenizer, folder))  # fmt: skip
    files = sorted(path.name for path in Path(values.out).iterdir())
    print(f"{values.out}: {opened.config.family}, {values.dtype}, {', '.join(files)}")


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status."""
    try:
        values = parse(argv)
        if values is not None:
            run(values)
    except InputError as error:
        explain(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
