"""TRL's worker for SFT and reward models: SFTTrainer and RewardTrainer, which wait between rounds at the end of a step."""

from beside import torch_models
from beside.sizes import Size
from beside.worker import Laps
from datasets import Dataset
from transformers import TrainerCallback
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

STEPS = 10**6  # more than any round asks for
BATCHES = 64


class StepEnds(TrainerCallback):
    """Waits before the first step and after every round."""

    def __init__(self, laps: Laps):
        self.laps = laps

    def on_train_begin(self, *arguments, **more):
        self.laps.begin()

    def on_step_end(self, *arguments, **more):
        self.laps.lap()


def sft_trainer(options, size: Size):
    """A trainer on rows of random text, a loss on every token."""
    rows = size.tokens(0, BATCHES * size.rows, size.length).tolist()
    model = torch_models.policy(options.folder, options.dtype)
    args = SFTConfig(
        **torch_models.trainer_settings(options, size, size.rows),
        max_steps=STEPS,
        max_length=None,
        packing=False,
    )
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    return model, SFTTrainer(
        model, args=args, train_dataset=data, processing_class=torch_models.tokenizer(size)
    )


def reward_trainer(options, size: Size):
    """A trainer on pairs; TRL knows no more than two completions of a prompt."""
    pairs = BATCHES * size.rows // 2
    rows = size.tokens(0, 2 * pairs, size.length).tolist()
    model = torch_models.scalar(options.folder, options.dtype)
    args = RewardConfig(
        **torch_models.trainer_settings(options, size, size.rows // 2), max_steps=STEPS, max_length=None
    )
    data = Dataset.from_dict({"chosen_ids": rows[:pairs], "rejected_ids": rows[pairs:]})
    tokenizer = torch_models.tokenizer(size)
    return model, RewardTrainer(model, args=args, train_dataset=data, processing_class=tokenizer)


def main():
    options, size, line = torch_models.options()
    model, trainer = {"sft": sft_trainer, "rm": reward_trainer}[options.stage](options, size)
    trainer.add_callback(StepEnds(Laps(line, size.steps)))
    line.reply(parameters=torch_models.parameters(model), versions=torch_models.versions("trl", "accelerate"))
    trainer.train()


if __name__ == "__main__":
    main()
