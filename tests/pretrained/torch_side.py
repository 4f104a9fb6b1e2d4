"""The torch side of the live comparison; launch/compare_torch.sh runs it before and after tests/pretrained/compare.py.

    torch_side.py make WORK [FILE.gguf ...]   fresh checkpoints, reward models and greedy text, with what torch computes
    torch_side.py check WORK                  loads our exports, prints the table of both sides; exit status 1 on a failure

It imports nothing of instruct_jax. WORK/<name>/ holds `policy` and `reward` (checkpoints), `policy/expected.npz` and, written by
our side, `policy_export`, `reward_export` and `biased_export`; WORK/gguf holds what transformers says from each GGUF file.
"""

import argparse
import json
import sys
from pathlib import Path

import make_fixtures as fixtures
import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

TOLERANCE = 1e-4
BIAS = 0.375  # of the reward model that compare.py exports with a bias
LINEAR = dict(rope_type="linear", rope_theta=1e4, factor=4.0)
PLAIN_ROPE = dict(rope_type="default", rope_theta=2e4)
GEMMA3_LONG = dict(
    sliding_attention=dict(rope_type="default", rope_theta=1e4),
    full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0),
)

# Shapes and seeds that the fixtures do not have; a vocabulary of 150 is no whole number of tiles.
WINDOWS = dict(use_sliding_window=True, sliding_window=5, max_window_layers=2)
LIVE = {
    "gpt2": lambda: fixtures.gpt2(width=48, heads=3, layers=3, vocab=150, context=90),
    "gpt2_wide": lambda: fixtures.gpt2(n_inner=80, layer_norm_epsilon=1e-4),
    "opt": lambda: fixtures.opt(width=48, heads=6, layers=3, mlp=100, vocab=130),
    "gpt_neox": lambda: fixtures.gpt_neox(width=48, heads=3, rotary=0.5, theta=5e4, vocab=150),
    "gpt_neox_serial": lambda: fixtures.gpt_neox(width=40, heads=5, rotary=1.0, use_parallel_residual=False),
    "llama_1": lambda: fixtures.llama(heads=4, kv_heads=4, rope=PLAIN_ROPE, layers=3),
    "llama_linear": lambda: fixtures.llama(width=48, heads=6, kv_heads=3, rope=LINEAR),
    "llama_3": lambda: fixtures.llama(width=64, heads=4, kv_heads=2, layers=3, vocab=150),
    "smollm2": lambda: fixtures.smollm2(width=36, heads=3, kv_heads=1, layers=4, vocab=150),
    "mistral": lambda: fixtures.mistral(width=40, heads=4, kv_heads=1, head_dim=14, window=5),
    "mistral_whole": lambda: fixtures.mistral(window=None, layers=3),
    "qwen2": lambda: fixtures.qwen2(width=48, heads=6, kv_heads=2, layers=3),
    "qwen2_untied": lambda: fixtures.qwen2(tied=False, vocab=150),
    "qwen2_windows": lambda: fixtures.qwen2(layers=4, **WINDOWS),
    "qwen3": lambda: fixtures.qwen3(width=32, heads=4, kv_heads=1, head_dim=10, layers=3),
    "qwen3_untied": lambda: fixtures.qwen3(tied=False, vocab=150),
    "qwen3_windows": lambda: fixtures.qwen3(layers=4, **WINDOWS),
    "gemma2": lambda: fixtures.gemma2(width=48, heads=4, kv_heads=1, head_dim=16, window=6, layers=5),
    "gemma3_text": lambda: fixtures.gemma3_text(width=48, heads=4, kv_heads=2, layers=8, window=5, vocab=150),
    "gemma3_long": lambda: fixtures.gemma3_text(layers=6, rope=GEMMA3_LONG),
}
SHARDED = {"gpt2", "llama_3", "gemma3_text"}  # several files and an index
FLOAT32 = {"qwen2", "opt"}  # stored whole

PROMPTS = (
    "Serendipity means finding something good in something that is",
    "The film was",
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a village by the sea, there lived",
    "2 + 2 = 4\n3 + 5 = 8\n6 + 7 =",
    "To make a good cup of tea, first",
    "Dear committee,\n\nI am writing to",
)
NEW_TOKENS = 48


def as_published(folder: Path) -> None:
    """Rewrites config.json as the files on model hubs were written before transformers 5, which reads them the same."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    before = AutoConfig.from_pretrained(folder).to_dict()
    kind, rope = config["model_type"], config.pop("rope_parameters", None)
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.0"
    config.pop("layer_types", None)
    if config.pop("_sliding_window_pattern", None):
        config["sliding_window_pattern"] = 6
    if kind in ("gpt2", "opt", "gemma2", "gemma3_text"):
        del config["tie_word_embeddings"]  # their class's default
    if kind in ("llama", "mistral") and config.get("head_dim") == config["hidden_size"] // config["num_attention_heads"]:  # fmt: skip
        del config["head_dim"]
    if kind == "gemma3_text":
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    if kind == "gpt_neox":
        config |= dict(rotary_emb_base=rope["rope_theta"], rotary_pct=rope["partial_rotary_factor"])
    elif rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    path.write_text(json.dumps(config, indent=2) + "\n")
    after = AutoConfig.from_pretrained(folder).to_dict()
    changed = {key for key in before if before[key] != after.get(key)} - {"transformers_version"}
    assert not changed, f"{folder}: as published, {changed} read differently"


def make_policy(name: str, number: int, work: Path) -> None:
    """WORK/<name>/policy and reward, with expected.npz."""
    folder = work / name / "policy"
    config = LIVE[name]()
    stored = torch.float32 if name in FLOAT32 else torch.bfloat16
    save = dict(max_shard_size="40KB") if name in SHARDED else {}
    for seed in range(1000 * number, 1000 * number + 50):
        fixtures.write_checkpoint(config, folder, seed, stored, **save)
        as_published(folder)
        expected = fixtures.expectations(folder, seed, lengths=(40, 23, 15), packed=(11, 3, 19, 7))
        if fixtures.worth_comparing(expected):
            break
    np.savez(folder / "expected.npz", **expected)
    model = fixtures.reward_model(folder, torch.tensor(expected["reward_weight_D"]))
    model.to(stored).save_pretrained(work / name / "reward")


@torch.no_grad()
def make_gguf(path: Path, work: Path) -> None:
    """WORK/gguf/<stem>.npz: left-padded prompts, the greedy tokens and the gap of the best two logits at each."""
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    rows = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    tokens_BP, mask_BP = fixtures.pad_left(rows, max(map(len, rows)))
    model.generation_config.eos_token_id = None
    plan = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0, output_logits=True, return_dict_in_generate=True
    )  # fmt: skip
    out = model.generate(input_ids=tokens_BP, attention_mask=mask_BP, generation_config=plan)
    best = torch.stack([logits.topk(2).values for logits in out.logits], 1)
    greedy_BR = out.sequences[:, tokens_BP.shape[1] :]
    (work / "gguf").mkdir(parents=True, exist_ok=True)
    np.savez(
        work / "gguf" / f"{path.stem}.npz",
        path=str(path.resolve()),
        prompt_tokens_BP=tokens_BP,
        prompt_mask_BP=mask_BP,
        greedy_BR=greedy_BR,
        gaps_BR=best[..., 0] - best[..., 1],
        text=np.array([tokenizer.decode(row) for row in greedy_BR]),
    )


def make(work: Path, ggufs: list[Path]) -> None:
    for number, name in enumerate(LIVE, 1):
        make_policy(name, number, work)
        print(f"torch: {name}", flush=True)
    for path in ggufs:
        make_gguf(path, work)
        print(f"torch: {path.name}", flush=True)


def load_export(kind, folder: Path, dtype):
    """The model, after checking that no tensor was missing, surplus or of another shape."""
    model, info = kind.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    wrong = {key: value for key, value in info.items() if value}
    if wrong:
        raise ValueError(f"{folder}: {wrong}")
    return model.eval()


def same_bits(kind, one: Path, other: Path) -> None:
    """Both folders load into one state dict: names, dtypes and bits; ValueError names the first that differs."""
    left, right = (load_export(kind, folder, "auto").state_dict() for folder in (one, other))
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right:
            raise ValueError(f"{name} is in one of {one} and {other} alone")
        if left[name].dtype != right[name].dtype or not torch.equal(left[name], right[name]):
            raise ValueError(f"{name} of {other} has other bits or dtype {right[name].dtype}")


@torch.no_grad()
def check_policy(folder: Path) -> float:
    """Largest difference of the export's logits, in standard deviations."""
    expected = np.load(folder / "policy/expected.npz")
    same_bits(AutoModelForCausalLM, folder / "policy", folder / "policy_export")
    model = load_export(AutoModelForCausalLM, folder / "policy_export", torch.float32)
    logits = model(torch.tensor(expected["plain_tokens_BT"]).long()).logits.numpy()
    return float(np.abs(logits - expected["plain_logits_BTV"]).max() / expected["logits_std"])


def check_reward(folder: Path) -> float:
    """Largest difference of the exported reward model's scores."""
    same_bits(AutoModelForSequenceClassification, folder / "reward", folder / "reward_export")
    return score_difference(folder, "reward_export", 0.0)


def check_biased(folder: Path) -> float:
    """The same of the reward model that was given a bias: in its final norm, or left out and said in config.json."""
    return score_difference(folder, "biased_export", BIAS)


@torch.no_grad()
def score_difference(folder: Path, name: str, bias: float) -> float:
    """Largest difference of the scores of `folder`/`name` from the expected ones plus `bias`."""
    expected = np.load(folder / "policy/expected.npz")
    model = load_export(AutoModelForSequenceClassification, folder / name, torch.float32)
    assert model.config.num_labels == 1
    model.config.pad_token_id = fixtures.PAD
    tokens, mask = (torch.tensor(expected[f"reward_{name}_BT"]).long() for name in ("tokens", "mask"))
    scores = model(tokens, attention_mask=mask).logits[:, 0].numpy()
    said = getattr(model.config, "reward_bias", 0.0)
    return float(np.abs(scores + said - expected["reward_scores_B"] - bias).max())


def check(work: Path) -> int:
    """Adds the exports to our side's results and prints them all; the number of failures."""
    results = json.loads((work / "ours.json").read_text())
    for name in LIVE:
        for column, compare in (
            ("export", check_policy),
            ("export RM", check_reward),
            ("with bias", check_biased),
        ):
            try:
                results[name][column] = compare(work / name)
            except Exception as error:
                results[name][column] = f"{type(error).__name__}: {error}"
    columns = list(dict.fromkeys(column for row in results.values() for column in row))
    print(f"{'largest difference / std':24}" + "".join(f"{column:>14}" for column in columns))
    failures = []
    for name, row in results.items():
        cells = []
        for column in columns:
            value = row.get(column, "")
            passed = value == "" or (isinstance(value, float) and value <= TOLERANCE)
            if not passed:
                failures.append(f"{name}, {column}: {value}")
            cells.append(f"{value:.1e}" if isinstance(value, float) else "-" if value == "" else "error")
            cells[-1] += "" if passed else " FAIL"
        print(f"{name:24}" + "".join(f"{cell:>14}" for cell in cells))
    print(*failures, sep="\n")
    print(f"{len(failures)} failures, tolerance {TOLERANCE:.0e}; greedy counts the rows that differ")
    return len(failures)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["make", "check"])
    parser.add_argument("work", type=Path)
    parser.add_argument("gguf", type=Path, nargs="*")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.command == "make":
        make(options.work, options.gguf)
    else:
        sys.exit(min(check(options.work), 1))


if __name__ == "__main__":
    main()
