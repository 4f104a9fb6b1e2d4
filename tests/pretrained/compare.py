"""Our side of the live comparison with torch; launch/compare_torch.sh runs it between two runs of torch_side.py.

    compare.py WORK     reads the checkpoints that torch_side.py made; writes WORK/ours.json and our exports beside them

Differences are the largest over real positions, in standard deviations of the logits; of greedy text, the rows that differ.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np

from instruct_jax.algorithms.decode import SamplingConfig, generate
from instruct_jax.batches import PromptBatch
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.pretrained import export, families, gguf, huggingface
from instruct_jax.sharding import make_mesh

NEVER = -1  # an end of text that no model writes
BIAS = 0.375  # what torch_side.py expects of the reward model that is exported with a bias


def logits(model, params, tokens_BT, segments_BT) -> np.ndarray:
    """f32[B, T, V] over the real vocabulary."""
    apply = jax.jit(partial(model.apply, method="logits"))
    return np.asarray(apply({"params": params}, tokens_BT, segments_BT))[..., : model.config.vocab]


def farthest(found, expected, real, std) -> float:
    """The largest difference where `real` is not 0, in standard deviations."""
    return float(np.abs(found - expected)[real > 0].max() / std)


def greedy(model, params, tokens_BP, mask_BP, count: int) -> np.ndarray:
    """i32[B, count]: what the model says at temperature 0, never ending."""
    B = len(tokens_BP)
    prompts = PromptBatch(tokens_BP.astype(np.int32), mask_BP > 0, np.arange(B, dtype=np.int32))
    sampling = SamplingConfig(max_new_tokens=count, temperature=0.0)
    run = jax.jit(lambda params, key: generate(model, params, prompts, key, sampling, NEVER, 0))
    return np.asarray(run(params, jax.random.key(0))[0])


def scores(model, params, tokens_BT, mask_BT) -> np.ndarray:
    """f32[B]: the score at each row's last real token, rows padded on the right."""
    values_BT = np.asarray(jax.jit(model.apply)({"params": params}, tokens_BT, mask_BT))
    return values_BT[np.arange(len(values_BT)), mask_BT.sum(axis=1) - 1]


def policy_differences(folder: Path, source, params) -> dict[str, float]:
    """{column: difference} of the model in `folder`/policy, opened as `source`."""
    expected = np.load(folder / "policy/expected.npz")
    model, out = PolicyModel(families.to_config(source.config)), {}
    segments = {
        "plain": np.ones_like(expected["plain_tokens_BT"]),
        "padded": expected["padded_mask_BT"],
        "packed": expected["packed_segments_BT"],
    }
    for kind, segments_BT in segments.items():
        found_BTV = logits(model, params, expected[f"{kind}_tokens_BT"], segments_BT)
        out[kind] = farthest(found_BTV, expected[f"{kind}_logits_BTV"], segments_BT, expected["logits_std"])
    told_BR = expected["greedy_BR"]
    for column, unroll in (("greedy", False), ("unrolled", True)):
        model = PolicyModel(families.to_config(source.config, unroll=unroll))
        prompts = expected["prompt_tokens_BP"], expected["prompt_mask_BP"]
        ours_BR = greedy(model, params, *prompts, told_BR.shape[1])
        out[column] = float((ours_BR != told_BR).any(axis=1).sum())
    return out


def compare_policy(folder: Path, mesh) -> dict[str, float]:
    """The differences of the policy, which is exported to `folder`/policy_export."""
    source = huggingface.open_source(folder / "policy")
    config = families.to_config(source.config)
    params = huggingface.load(source, config, mesh)
    stored = source.config.get("dtype") or source.config["torch_dtype"]
    export.export_policy(params, config, folder / "policy_export", dtype=stored)
    return policy_differences(folder, source, params)


def compare_reward(folder: Path, mesh) -> dict[str, float]:
    """The difference of TRL's reward model, which is exported to `folder`/reward_export and, with a bias, to biased_export."""
    expected = np.load(folder / "policy/expected.npz")
    source = huggingface.open_source(folder / "reward")
    config = families.to_config(source.config)
    params = huggingface.load(source, config, mesh, scalar=True)
    found_B = scores(ScalarModel(config), params, expected["reward_tokens_BT"], expected["reward_mask_BT"])
    stored = source.config["dtype"]
    export.export_reward(params, config, folder / "reward_export", dtype=stored)
    biased = {**params, "head": {**params["head"], "bias": params["head"]["bias"] + BIAS}}
    export.export_reward(biased, config, folder / "biased_export", dtype="float32")
    return {"reward": float(np.abs(found_B - expected["reward_scores_B"]).max())}


def compare_gguf(file: Path, mesh) -> dict[str, str | float]:
    """How many of transformers' greedy rows from the same file we do not repeat, and where each first departs."""
    told = np.load(file)
    source = gguf.open_source(Path(str(told["path"])))
    P, R = told["prompt_tokens_BP"].shape[1], told["greedy_BR"].shape[1]
    config = families.to_config(source.config, context=P + R, unroll=True)
    params = huggingface.load(source, config, mesh)
    ours_BR = greedy(PolicyModel(config), params, told["prompt_tokens_BP"], told["prompt_mask_BP"], R)
    differs_BR = ours_BR != told["greedy_BR"]
    for row in np.flatnonzero(differs_BR.any(axis=1)):
        at = int(differs_BR[row].argmax())
        print(f"{file.stem}: row {row} departs at token {at}, gap {told['gaps_BR'][row, at]:.2e}")
    print(f"{file.stem}: {len(ours_BR)} prompts x {R} tokens, smallest gap {told['gaps_BR'].min():.2e}")
    print("  first:", repr(str(told["text"][0])))
    return {"greedy": float(differs_BR.any(axis=1).sum())}


def attempt(compare, column: str, *arguments) -> dict:
    """What `compare` finds, or its error under `column`: a family that breaks must not hide the others."""
    try:
        return compare(*arguments)
    except Exception as error:
        return {column: f"{type(error).__name__}: {error}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work
    mesh = make_mesh(devices=jax.devices()[:1])
    results = {}
    for folder in sorted(path.parent for path in work.glob("*/policy")):
        row = attempt(compare_policy, "plain", folder, mesh)
        results[folder.name] = row | attempt(compare_reward, "reward", folder, mesh)
        print(f"ours: {folder.name}", flush=True)
    for file in sorted(work.glob("gguf/*.npz")):
        results[f"{file.stem}.gguf"] = attempt(compare_gguf, "greedy", file, mesh)
    (work / "ours.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
