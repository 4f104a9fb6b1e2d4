"""TRL's worker for PPO, of the last version that has it: PPOTrainer, which waits between rounds at the end of an iteration."""

from beside import torch_models
from beside.peer_trl import StepEnds
from beside.sizes import Size
from beside.worker import Laps
from datasets import Dataset
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

BATCHES = 64
ITERATIONS = 10**5


class IterationEnds(StepEnds):
    """The end of an update is the end of an iteration."""

    def on_step_end(self, *arguments, **more):
        self.laps.mark("update")
        self.laps.lap()


def watch(trainer: PPOTrainer, laps: Laps) -> None:
    """Marks where generation ends and where the first minibatch begins."""
    generate, accumulate = ppo_trainer.batch_generation, trainer.accelerator.accumulate

    def generated(*arguments, **more):
        out = generate(*arguments, **more)
        laps.mark("generation")
        return out

    def accumulated(*models):
        if "scoring" not in laps.parts:
            laps.mark("scoring")
        return accumulate(*models)

    ppo_trainer.batch_generation = generated
    trainer.accelerator.accumulate = accumulated


def make(options, size: Size):
    """The trainer and its four models: one epoch, one minibatch, responses of full length."""
    args = PPOConfig(
        **torch_models.trainer_settings(options, size, size.rows), gradient_accumulation_steps=1, num_mini_batches=1, num_ppo_epochs=1,
        total_episodes=ITERATIONS * size.rows, response_length=size.response, temperature=1.0, num_sample_generations=0,
        local_rollout_forward_batch_size=size.rows, kl_coef=0.05, vf_coef=1.0,
    )  # fmt: skip
    policies = [torch_models.policy(options.folder, options.dtype) for _ in range(2)]
    scalars = [torch_models.scalar(options.folder, options.dtype) for _ in range(2)]
    data = Dataset.from_dict({"input_ids": size.tokens(0, BATCHES * size.rows, size.prompt).tolist()})
    trainer = PPOTrainer(
        args=args, processing_class=torch_models.tokenizer(size), model=policies[0], ref_model=policies[1], reward_model=scalars[0],
        value_model=scalars[1], train_dataset=data, eval_dataset=data,
    )  # fmt: skip
    return trainer, torch_models.parameters(policies[0], scalars[1])


def main():
    options, size, line = torch_models.options()
    trainer, parameters = make(options, size)
    laps = Laps(line, 1)
    watch(trainer, laps)
    trainer.add_callback(IterationEnds(laps))
    line.reply(parameters=parameters, versions=torch_models.versions("trl", "accelerate"))
    trainer.train()


if __name__ == "__main__":
    main()
