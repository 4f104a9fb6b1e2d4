"""Talk to a model in the terminal, or have it answer one prompt or a file of them.

    python -m instruct_jax.chat --model runs/quickstart/ppo_ptx
    python -m instruct_jax.chat --model runs/quickstart/sft --prompt "Write about rivers ."
    python -m instruct_jax.chat --model runs/quickstart/sft --file prompts.txt > responses.jsonl

--model is a run's folder, a Hugging Face folder or a .gguf file. In a talk /reset forgets what was said, /quit or the end of
input leaves, and Ctrl-C stops the answer. --file holds one prompt a line; each becomes a line of JSON with prompt, response and
whether the response ended by itself. Exit status: 0 done, 2 bad input, 130 Ctrl-C outside a talk, 141 whoever read the answers left.
"""

import codecs
import contextlib
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from absl import flags

from instruct_jax.errors import InputError, explain


def make_flags() -> flags.FlagValues:
    """The command line's flags, not yet parsed."""
    values = flags.FlagValues()
    flags.DEFINE_string("model", None, "Run folder, Hugging Face folder or .gguf file.", flag_values=values)
    flags.DEFINE_enum("template", None, ["chat", "instruction", "plain"], "How prompts are framed (default: the model's "
                      "own way).", flag_values=values)  # fmt: skip
    flags.DEFINE_string("prompt", None, "Answer this and leave.", flag_values=values)
    flags.DEFINE_string("file", None, "Answer every line of this file, as JSON lines.", flag_values=values)
    flags.DEFINE_float("temperature", 0.7, "0 takes the likeliest token.", flag_values=values)
    flags.DEFINE_float("top_p", 1.0, "Tokens outside the likeliest share are left out.", flag_values=values)
    flags.DEFINE_integer("max_new_tokens", None, "The most tokens of an answer (default: 128, of a short context half).",
                         flag_values=values)  # fmt: skip
    flags.DEFINE_integer("seed", 0, "Of the sampling.", upper_bound=2**31 - 1, flag_values=values)
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
        raise InputError(f"{rest[1]!r} belongs to no flag: a prompt goes after --prompt, in quotes")
    if not values.model:
        raise InputError("--model is missing: name a run's folder, such as --model runs/quickstart/ppo_ptx")
    if values.prompt is not None and values.file is not None:
        raise InputError("--prompt and --file: give one of them")
    if values.prompt is not None and values.prompt.encode(errors="ignore").decode() != values.prompt:
        raise InputError("--prompt is not text in UTF-8: write it in that encoding")
    return values


def prompts_of(path: str) -> list[str]:
    """The lines of a file that are not empty; InputError where there are none."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--file: {path} cannot be read ({error})") from error
    found = [line.removesuffix("\r") for line in lines if line.strip()]
    if not found:
        raise InputError(f"--file: {path} holds no prompt; write one a line")
    return found


def run(values: flags.FlagValues) -> None:
    """Answers the prompt, the file or the terminal."""
    prompts = prompts_of(values.file) if values.file is not None else []
    import jax

    from instruct_jax import devices
    from instruct_jax.algorithms.decode import SamplingConfig
    from instruct_jax.stages import chat

    most = values.max_new_tokens
    sampling = SamplingConfig(
        128 if most is None else most, temperature=values.temperature, top_p=values.top_p
    )
    devices.enable_compile_cache(devices.cache_dir())
    speaker = chat.open_speaker(values.model, values.template)
    if most is None:
        sampling = replace(sampling, max_new_tokens=min(128, speaker.model.config.context // 2))
    talk, key = chat.Talker(speaker, sampling), jax.random.key(values.seed)
    if prompts:
        ascii_only = codecs.lookup(sys.stdout.encoding or "ascii").name != "utf-8"
        for prompt, response, finished in chat.answers(talk, speaker, prompts, key):
            row = {"prompt": prompt, "response": response, "finished": finished}
            print(json.dumps(row, ensure_ascii=ascii_only), flush=True)
        return

    def say(messages: list[dict[str, str]], turn: int) -> str:
        """Streams the answer to a talk; Ctrl-C ends it where it is."""
        ids = chat.ids_of(speaker.tokenizer, speaker.template, messages)
        transcript = chat.Transcript(speaker.tokenizer)
        with contextlib.suppress(*() if values.prompt is not None else (KeyboardInterrupt,)):
            for (token,) in talk([ids], jax.random.fold_in(key, turn)):
                if token is not None:
                    print(transcript.add(token), end="", flush=True)
        print(transcript.end(), flush=True)
        return transcript.text

    if values.prompt is not None:
        say([{"role": "user", "content": values.prompt}], 0)
    else:
        print(
            f"{values.model}, template {speaker.template}. /reset forgets, /quit leaves, Ctrl-C stops an answer."
        )
        converse(say)


def converse(say) -> None:
    """Reads messages and answers them with say(messages, turn) until /quit or the end of input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  line editing and history for input()
    messages: list[dict[str, str]] = []
    turn = 0
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n/quit or Ctrl-D leaves")
            continue
        if line == "/quit":
            return
        if line == "/reset":
            messages = []
            print("forgotten")
        elif line:
            asked = [*messages, {"role": "user", "content": line}]
            try:
                messages = [*asked, {"role": "assistant", "content": say(asked, turn)}]
            except InputError as error:
                print(f"error: {error}")
            turn += 1


def main(argv: list[str]) -> int:
    """The command line (program name first) to an exit status; see the module's docstring."""
    for stream in (sys.stdin, sys.stdout):  # neither bytes that are no text nor an old terminal end a talk
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        values = parse(argv)
        if values:
            run(values)
    except InputError as error:
        explain(error)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it at its end
        return 141
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
