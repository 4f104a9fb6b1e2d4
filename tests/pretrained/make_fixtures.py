"""Tiny random checkpoints of every family, saved by transformers, with the numbers torch computes from them.

    .venv-torch/bin/python tests/pretrained/make_fixtures.py [--out tests/pretrained/fixtures] [--families gpt2 opt]

It runs in the torch environment (`bash launch/setup.sh --torch`) and imports nothing of instruct_jax, so that what the suite
compares with is not ours. Weights are stored in bfloat16; everything expected is computed in float32 from the stored values,
by the eager attention. Running it twice writes the same bytes.

`expected.npz` of a family holds, with B rows, T tokens, V words, D channels (all real tokens are >= FIRST, pads are PAD):
  plain_tokens_BT, plain_logits_BTV                   rows of 32 tokens: past the window of 8, where there is one
  padded_tokens_BT, padded_mask_BT, padded_logits_BTV left-padded rows with positions as in `generate`; 0 at the pads
  packed_tokens_BT, packed_segments_BT, packed_logits_BTV   documents of several lengths in a row, each computed alone
  prompt_tokens_BP, prompt_mask_BP, greedy_BR         left-padded prompts and the 64 tokens `generate` appends greedily
  reward_tokens_BT, reward_mask_BT, reward_weight_D, reward_scores_B   right-padded rows and the score at their last token,
                                                      by the family's ForSequenceClassification with that score.weight
  logits_std, greedy_margin                           of plain_logits; smallest gap of the two best logits on the greedy way
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

PAD, BOS, EOS, FIRST = 0, 1, 2, 3
NEW_TOKENS = 64
LEAST_MARGIN = 1e-3
WINDOW = 8
SPECIAL = dict(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)


def llama_like(width=32, mlp=48, heads=4, kv_heads=2, layers=2, vocab=128, **more):
    """The arguments that the configs of Llama and its descendants share."""
    return dict(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=128,
        **more,
    )


def gpt2(width=32, heads=4, layers=2, vocab=128, context=96, **more):
    return transformers.GPT2Config(
        vocab_size=vocab, n_positions=context, n_embd=width, n_layer=layers, n_head=heads, **more, **SPECIAL
    )


def opt(width=32, heads=4, layers=2, vocab=128, mlp=96, context=96, **more):
    return transformers.OPTConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=layers,
        ffn_dim=mlp,
        max_position_embeddings=context,
        num_attention_heads=heads,
        **more,
        **SPECIAL,
    )


def gpt_neox(width=32, heads=2, layers=2, vocab=128, mlp=80, rotary=0.25, theta=10000.0, **more):
    return transformers.GPTNeoXConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=mlp,
        max_position_embeddings=128,
        rope_parameters=dict(rope_type="default", rope_theta=theta, partial_rotary_factor=rotary),
        **more,
        **SPECIAL,
    )


# Wavelengths of 16 channels at theta 1e4 are 6, 20, 63, ...: kept, blended and stretched under these bounds.
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=1e4,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)


def llama(heads=2, kv_heads=1, rope=LLAMA3, **more):
    options = llama_like(heads=heads, kv_heads=kv_heads, rope_parameters=rope, **more)
    return transformers.LlamaConfig(**options, rms_norm_eps=1e-5, tie_word_embeddings=False, **SPECIAL)


def smollm2(width=48, heads=6, kv_heads=2, **more):
    options = llama_like(width=width, heads=heads, kv_heads=kv_heads, **more)
    rope = dict(rope_type="default", rope_theta=1e5)
    return transformers.LlamaConfig(**options, rope_parameters=rope, rms_norm_eps=1e-5, **TIED, **SPECIAL)


def mistral(head_dim=12, window=WINDOW, **more):
    rope = dict(rope_type="default", rope_theta=1e6)
    options = llama_like(head_dim=head_dim, rope_parameters=rope, sliding_window=window, **more)
    return transformers.MistralConfig(**options, rms_norm_eps=1e-5, tie_word_embeddings=False, **SPECIAL)


def qwen2(tied=True, **more):
    rope = dict(rope_type="default", rope_theta=1e6)
    options = llama_like(rope_parameters=rope, **more)
    return transformers.Qwen2Config(**options, tie_word_embeddings=tied, **SPECIAL)


def qwen3(width=40, head_dim=16, tied=True, **more):
    rope = dict(rope_type="default", rope_theta=1e6)
    options = llama_like(width=width, head_dim=head_dim, rope_parameters=rope, **more)
    return transformers.Qwen3Config(**options, tie_word_embeddings=tied, **SPECIAL)


def gemma2(head_dim=12, query_scalar=10, attention_cap=3.0, final_cap=4.0, window=WINDOW, **more):
    return transformers.Gemma2Config(
        **llama_like(head_dim=head_dim, sliding_window=window, **more),
        query_pre_attn_scalar=query_scalar,
        attn_logit_softcapping=attention_cap,
        final_logit_softcapping=final_cap,
        rope_parameters=dict(rope_type="default", rope_theta=1e4),
        **TIED,
        **SPECIAL,
    )


GEMMA3_ROPE = dict(
    sliding_attention=dict(rope_type="default", rope_theta=1e4),
    full_attention=dict(rope_type="default", rope_theta=1e6),
)


def gemma3_text(
    width=32,
    heads=2,
    kv_heads=1,
    head_dim=12,
    layers=6,
    vocab=96,
    query_scalar=16,
    window=WINDOW,
    rope=None,
    **more,
):
    options = llama_like(width=width, heads=heads, kv_heads=kv_heads, layers=layers, vocab=vocab, **more)
    return transformers.Gemma3TextConfig(
        **options,
        head_dim=head_dim,
        sliding_window=window,
        query_pre_attn_scalar=query_scalar,
        rope_parameters=rope or GEMMA3_ROPE,
        **TIED,
        **SPECIAL,
    )


TIED = dict(tie_word_embeddings=True)
FAMILIES = {
    make.__name__: make
    for make in (gpt2, opt, gpt_neox, llama, smollm2, mistral, qwen2, qwen3, gemma2, gemma3_text)
}


@torch.no_grad()
def randomise(model, seed: int) -> None:
    """Every parameter anew, so that states, attention scores and logits have about unit variance; rounded to bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    width = model.config.hidden_size
    tied = model.config.tie_word_embeddings
    # Gemma's norms multiply by 1 + weight. Its scaled embeddings would make every token follow itself: weak embeddings
    # under a strong last norm.
    gemma = model.config.model_type.startswith("gemma")
    for name, parameter in sorted(model.named_parameters()):
        module, kind = name.rsplit(".", 2)[-2:]
        centre, std = 0.0, 0.3  # biases
        if parameter.ndim == 1 and kind == "weight":  # norms
            centre = 0.0 if gemma and name != "model.norm.weight" else 1.0
        elif module in ("wpe", "embed_positions"):
            std = 0.5
        elif module in ("wte", "embed_tokens", "embed_in"):
            std = (0.5 if gemma else 1.0) * width**-0.5 if tied else 1.0
        elif parameter.ndim == 2:
            fan_in = parameter.shape[0 if model.config.model_type == "gpt2" and module != "score" else 1]
            queries = module in ("q_proj", "k_proj", "c_attn", "query_key_value")
            std = (1.5 if queries else 1.0) * fan_in**-0.5
        value = centre + std * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(value.to(torch.bfloat16))


def left_positions(mask_BT):
    """The position_ids that `generate` derives from an attention mask."""
    return (mask_BT.long().cumsum(-1) - 1).masked_fill(mask_BT == 0, 0)


def pad_left(rows, length: int):
    """(tokens, mask), int64 tensors [B, length]."""
    tokens_BT = torch.tensor([[PAD] * (length - len(row)) + list(row) for row in rows])
    mask_BT = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return tokens_BT, mask_BT


def greedy(model, tokens_BP, mask_BP, count: int):
    """(ids i64[B, count], the smallest gap between the best two logits at any of these steps)."""
    model.generation_config.eos_token_id = None
    plan = GenerationConfig(do_sample=False, use_cache=True, max_new_tokens=count, pad_token_id=PAD)
    whole = model.generate(input_ids=tokens_BP, attention_mask=mask_BP, generation_config=plan)
    P = tokens_BP.shape[1]
    assert whole.shape[1] == P + count, "generate stopped early"
    mask = torch.cat([mask_BP, torch.ones_like(whole[:, P:])], 1)
    again = model(whole, attention_mask=mask, position_ids=left_positions(mask)).logits[:, P - 1 : -1]
    assert (again.argmax(-1) == whole[:, P:]).all(), "generate with its cache disagrees with the full forward"
    best = again.topk(2, dim=-1).values
    return whole[:, P:], float((best[..., 0] - best[..., 1]).min())


@torch.no_grad()
def expectations(
    folder: Path, seed: int, *, lengths=(32, 24, 14), packed=(5, 17, 10)
) -> dict[str, np.ndarray]:
    """What expected.npz holds, by torch in float32 from the checkpoint in `folder`; tokens and score weight from `seed`.

    `lengths` are those of plain and padded rows and of prompts, `packed` those of the documents of the packed row.
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    vocab = model.config.vocab_size
    generator = torch.Generator().manual_seed(seed)

    def rows(*sizes):
        return [torch.randint(FIRST, vocab, (size,), generator=generator).tolist() for size in sizes]

    plain, padded, prompt = lengths
    out = {}
    tokens = torch.tensor(rows(plain, plain))
    out["plain_tokens_BT"], out["plain_logits_BTV"] = tokens, model(tokens).logits
    tokens, mask = pad_left(rows(padded - 3, padded - 11), padded)
    logits = model(tokens, attention_mask=mask, position_ids=left_positions(mask)).logits
    out["padded_tokens_BT"], out["padded_mask_BT"] = tokens, mask
    out["padded_logits_BTV"] = torch.where(mask[..., None] == 1, logits, 0.0)
    documents = rows(*packed)
    out["packed_tokens_BT"] = torch.tensor([sum(documents, [])])
    numbers = [[n] * len(document) for n, document in enumerate(documents, 1)]
    out["packed_segments_BT"] = torch.tensor([sum(numbers, [])])
    out["packed_logits_BTV"] = torch.cat([model(torch.tensor([row])).logits for row in documents], 1)
    tokens, mask = pad_left(rows(prompt, prompt - 5, prompt - 12), prompt)
    out["prompt_tokens_BP"], out["prompt_mask_BP"] = tokens, mask
    out["greedy_BR"], margin = greedy(model, tokens, mask, NEW_TOKENS)
    out["logits_std"] = out["plain_logits_BTV"].std()
    weight_D = torch.randn(model.config.hidden_size, generator=generator) * model.config.hidden_size**-0.5
    out |= rewards(folder, model, rows(padded, padded - 7, padded - 15), weight_D.bfloat16().float())
    arrays = {name: value.numpy() for name, value in out.items()}
    arrays["greedy_margin"] = np.float32(margin)
    return {name: x.astype(np.int32) if x.dtype == np.int64 else x for name, x in arrays.items()}


def reward_model(folder: Path, weight_D):
    """The backbone in `folder` under a score without bias, as TRL saves reward models; float32."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model.score.weight.data.copy_(weight_D[None])
    return model


def rewards(folder: Path, policy, rows, weight_D) -> dict:
    """The reward_* entries: scores at each row's last token, rows padded on the right."""
    length = max(map(len, rows))
    tokens = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    scores = reward_model(folder, weight_D)(tokens, attention_mask=mask).logits[:, 0]
    for row, score in zip(rows, scores):
        state_D = policy.base_model(torch.tensor([row])).last_hidden_state[0, -1]
        torch.testing.assert_close(state_D @ weight_D, score, atol=1e-4, rtol=1e-4)
    return dict(
        reward_tokens_BT=tokens, reward_mask_BT=mask, reward_weight_D=weight_D, reward_scores_B=scores
    )


def write_checkpoint(config, folder: Path, seed: int, stored=torch.bfloat16, **save) -> int:
    """Saves random weights of `config` in the dtype `stored` to an empty `folder`; the number of parameters."""
    config.dtype = str(stored).removeprefix("torch.")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, seed)
    shutil.rmtree(folder, ignore_errors=True)
    model.to(stored).save_pretrained(folder, **save)
    return sum(parameter.numel() for parameter in model.parameters())


def worth_comparing(expected) -> bool:
    """Is the greedy text unambiguous, and more than a token said again and again?"""
    lively = min(len(set(row)) for row in expected["greedy_BR"].tolist()) > 3
    return lively and expected["greedy_margin"] > LEAST_MARGIN


def write_family(config, folder: Path, seed: int) -> dict:
    """Writes checkpoint and expected.npz; the next seed is tried where the greedy text is ambiguous or stands still.

    Returns the row of the table: bytes, params, logits_std, margin, seed.
    """
    for attempt in range(seed, seed + 50):
        params = write_checkpoint(config, folder, attempt)
        expected = expectations(folder, attempt)
        if worth_comparing(expected):
            break
    else:
        raise SystemExit(f"{folder}: no seed from {seed} on gives greedy text worth comparing")
    np.savez_compressed(folder / "expected.npz", **expected)
    return dict(
        bytes=sum(path.stat().st_size for path in folder.iterdir()),
        params=params,
        logits_std=float(expected["logits_std"]),
        margin=float(expected["greedy_margin"]),
        seed=attempt,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "fixtures")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"{'family':12} {'bytes':>8} {'params':>7} {'std':>6} {'margin':>8} {'seed':>5}")
    for family in options.families:
        row = write_family(FAMILIES[family](), options.out / family, seed=100)
        print(
            f"{family:12} {row['bytes']:8} {row['params']:7} {row['logits_std']:6.2f} {row['margin']:8.5f} {row['seed']:5}"
        )


if __name__ == "__main__":
    main()
