"""transformers' worker: `generate` at temperature 1, all responses of full length."""

import time

import torch
from beside import torch_models
from transformers import GenerationConfig


def main():
    options, size, line = torch_models.options()
    dtype = "float32" if options.dtype == "float32" else "bfloat16_weights"
    model = torch_models.policy(options.folder, dtype).eval()
    model.generation_config.eos_token_id = None
    plan = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=size.response, pad_token_id=0, use_cache=True
    )  # fmt: skip
    done = [0]

    @torch.inference_mode()
    def run_round():
        prompts = torch.tensor(size.tokens(done[0] % 4, size.rows, size.prompt)).long()
        done[0] += 1
        start = time.perf_counter()
        found = model.generate(
            input_ids=prompts, attention_mask=torch.ones_like(prompts), generation_config=plan
        )
        seconds = time.perf_counter() - start
        if found.shape[1] != size.length:
            raise SystemExit(
                f"transformers generated {found.shape[1] - size.prompt} tokens, not {size.response}"
            )
        return {"step": seconds}

    line.reply(parameters=torch_models.parameters(model), versions=torch_models.versions())
    line.serve(run_round)


if __name__ == "__main__":
    main()
