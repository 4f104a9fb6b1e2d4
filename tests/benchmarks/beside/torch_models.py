"""What the workers on torch share: options, threads, the exported weights, a tokenizer of as many words as there are ids."""

import argparse
import importlib.metadata
import json
import os

import torch
from beside.sizes import Size
from beside.worker import Line
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

# Weights and all; "bfloat16" keeps the weights in float32 and has torch cast where it thinks fit.
CAST = {"float32": torch.float32, "bfloat16": torch.float32, "bfloat16_weights": torch.bfloat16}


def options() -> tuple[argparse.Namespace, Size, Line]:
    """The worker's options, its size and its line."""
    parser = argparse.ArgumentParser()
    for name in ("--stage", "--size", "--folder", "--dtype", "--scratch"):
        parser.add_argument(name, required=True)
    found = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    return found, Size(**json.loads(found.size)), Line()


def policy(folder: str, dtype: str):
    """The language model, as trained or sampled from."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=CAST[dtype])


def scalar(folder: str, dtype: str):
    """A reward or value model on the same weights, with a fresh head."""
    return AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=CAST[dtype], num_labels=1, pad_token_id=0
    )


def parameters(*models) -> int:
    """Of all of them, those of tied matrices once."""
    return sum(each.numel() for model in models for each in model.parameters())


def tokenizer(size: Size) -> PreTrainedTokenizerFast:
    """Words w0, w1, … for the ids; w0 pads, w1 ends a text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    words = Tokenizer(WordLevel({f"w{i}": i for i in range(size.vocab)}, unk_token="w2"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1", unk_token="w2")


def trainer_settings(stage_options, size: Size, rows: int) -> dict:
    """Fields of every TRL config: nothing is written or logged, and no activation is computed twice."""
    return dict(
        output_dir=stage_options.scratch, per_device_train_batch_size=rows, learning_rate=1e-5, lr_scheduler_type="constant",
        gradient_checkpointing=False, bf16=stage_options.dtype == "bfloat16", use_cpu=True, logging_strategy="no", save_strategy="no",
        eval_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False, seed=0,
    )  # fmt: skip


def versions(*names: str) -> dict[str, str]:
    """Of the packages that decide the figures."""
    return {name: importlib.metadata.version(name) for name in (*names, "torch", "transformers")}
