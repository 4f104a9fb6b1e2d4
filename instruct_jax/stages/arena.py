"""Home of what finished models say to the same prompts: checkpoints of any kind, each with its own tokenizer and template, one in
memory at a time; and of their KL from a reference.

The paper compares one sample a model and prompt at temperature 1, base models at 0.7 (7.1, F).
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from instruct_jax.algorithms.decode import SamplingConfig
from instruct_jax.errors import InputError
from instruct_jax.records import Prompt
from instruct_jax.sharding import check_divides
from instruct_jax.stages import chat, inference, setup
from instruct_jax.text.templates import TEMPLATES, Template

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A model to evaluate: a run's folder (of `step`, None: the latest), a Hugging Face folder or a .gguf file; its template's name
    (None: its own); a file with few-shot examples around {prompt}, whose answers end with their line; its temperature (None: the
    run's)."""

    path: str
    step: int | None = None
    template: str | None = None
    prefix_file: str = ""
    temperature: float | None = None


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """Prompts at once, the limits in tokens, the temperature, and the sources of prompts that are texts to be continued: these go to
    every model as they are, and their answers end with their line. A prompt over `max_prompt` is left out and counted."""

    batch_size: int
    max_prompt: int
    max_response: int
    temperature: float = 1.0
    continued: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model said to one prompt, and the template between which it stood."""

    prompt: Prompt
    sampled: inference.Sampled
    template: Template


class Arena:
    """Models open here, and their programs are compiled once for each shape of model."""

    def __init__(self, settings: SampleSettings, seed: int):
        self.settings, self.seed = settings, seed
        self.mesh = setup.open_mesh(setup.MeshSettings(data=-1))
        check_divides(settings.batch_size, self.mesh, "config.sample.batch_size")
        self._samplers: dict = {}
        self._logprobs: dict = {}

    def open(self, contestant: Contestant) -> chat.Speaker:
        """The model, on the mesh; InputError where its context is too short for the limits."""
        speaker = chat.open_speaker(contestant.path, contestant.template, contestant.step, self.mesh)
        room = speaker.model.config.context - self.settings.max_response
        if self.settings.max_prompt > room:
            raise InputError(
                f"sample.max_prompt is {self.settings.max_prompt}: the context of {contestant.path} leaves room for {room}"
            )
        return speaker

    def answers(self, speaker: chat.Speaker, contestant: Contestant, prompts: Sequence[Prompt], salt: int,
                each: int = 1) -> list[Answer]:  # fmt: skip
        """`each` samples of every prompt that fits; equal for equal seed and `salt`."""
        found = []
        for number, (template, asked) in enumerate(self._by_template(speaker, contestant, prompts)):
            fits = inference.fitting(
                [p.text for p in asked], template, speaker.tokenizer, self.settings.max_prompt
            )
            if not all(fits):
                _log.warning(
                    "%s: %d of %d prompts are over max_prompt", contestant.path, fits.count(False), len(fits)
                )
            asked = [p for p, fit in zip(asked, fits) if fit for _ in range(each)]
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), salt), number)
            sampled = self._sampler(speaker, contestant)(
                speaker.params, [p.text for p in asked], template, key
            )
            found += [Answer(p, s, template) for p, s in zip(asked, sampled, strict=True)]
        return found

    def kl(self, speaker: chat.Speaker, reference: chat.Speaker, answers: Sequence[Answer]) -> np.ndarray:
        """Log-ratio of every answer, model to reference, both behind the answer's template: its mean estimates the KL in nats a
        response. InputError where the two do not share a tokenizer."""
        texts = [a.sampled.text for a in answers]
        if speaker.tokenizer.encode_batch(texts) != reference.tokenizer.encode_batch(texts):
            raise InputError("reference: has another tokenizer than a model; there is no KL between the two")
        totals = []
        for one in (speaker, reference):
            logprobs, parts = self._logprob(one), np.zeros(len(answers))
            for template in dict.fromkeys(a.template for a in answers):
                rows = [i for i, a in enumerate(answers) if a.template == template]
                parts[rows] = logprobs(one.params, [answers[i].prompt.text for i in rows],
                                       [answers[i].sampled for i in rows], template, self.settings.temperature)  # fmt: skip
            totals.append(parts)
        return totals[0] - totals[1]

    def _by_template(self, speaker, contestant, prompts) -> Iterator[tuple[Template, list[Prompt]]]:
        own = prefix_of(contestant) or setup.template(speaker.template, speaker.tokenizer)
        for template, continued in ((own, False), (TEMPLATES["continuation"], True)):
            asked = [p for p in prompts if (p.source in self.settings.continued) == continued]
            if asked:
                yield template, asked

    def _sampler(self, speaker: chat.Speaker, contestant: Contestant) -> Callable:
        given = contestant.temperature
        sampling = SamplingConfig(
            self.settings.max_response, self.settings.temperature if given is None else given
        )
        return self._made(self._samplers, speaker, sampling, lambda: inference.make_sampler(
            speaker.model, sampling, speaker.tokenizer, self.mesh, max_prompt=self.settings.max_prompt,
            batch_size=self.settings.batch_size,
        ))  # fmt: skip

    def _logprob(self, speaker: chat.Speaker) -> Callable:
        return self._made(self._logprobs, speaker, None, lambda: inference.make_logprobs(
            speaker.model, speaker.tokenizer, self.mesh, max_prompt=self.settings.max_prompt,
            max_response=self.settings.max_response, batch_size=self.settings.batch_size,
        ))  # fmt: skip

    def _made(self, kept: dict, speaker: chat.Speaker, how, make: Callable) -> Callable:
        asked = (speaker.model, speaker.tokenizer_path, how)
        if asked not in kept:
            kept[asked] = make()
        return kept[asked]


def prefix_of(contestant: Contestant) -> Template | None:
    """The template of the contestant's few-shot examples, None where it has none; InputError for a file that is none."""
    if not contestant.prefix_file:
        return None
    try:
        text = setup.expand(contestant.prefix_file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(
            f"prefix_file {contestant.prefix_file}: cannot be read ({type(error).__name__})"
        ) from error
    before, found, after = text.removesuffix("\n").partition("{prompt}")
    if not found:
        raise InputError(f"prefix_file {contestant.prefix_file}: lacks {{prompt}}, where each prompt goes")
    return Template(before, after, stop="\n")
