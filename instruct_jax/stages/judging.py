"""Home of the judges of an evaluation, opened from its config: the lab's gold judge, a reward model, a classifier of sentiment, a chat
endpoint; and of the lab's people, who rank and rate what the models said.

A judge is a plain callable. The gold judges are reached through the stages that own them and nowhere else.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from instruct_jax.data.lab import labelers
from instruct_jax.errors import InputError
from instruct_jax.evaluation.chat_judge import ChatJudge, ChatSettings, Verdicts
from instruct_jax.evaluation.comparisons import Comparison, Pair, by_score, compared, judge_pairs
from instruct_jax.models.transformer import ScalarModel
from instruct_jax.records import Prompt, Ranking, Rating
from instruct_jax.stages import evaluate, inference, recipe, sentiment_evaluate, setup
from instruct_jax.stages.lab_data import Lab, LabSettings, make_lab
from instruct_jax.stages.settings import section
from instruct_jax.text.templates import TEMPLATES

Row = tuple[str, str, str, bool]  # prompt id, prompt, response, whether it ended by itself


@dataclasses.dataclass(frozen=True)
class JudgeSettings:
    """One judge, by exactly one field: the folder of a lab's recipe (its gold judge), a reward model's checkpoint, the folder of a
    sentiment recipe (its gold classifier), or a chat endpoint."""

    lab: str = ""
    reward_model: str = ""
    sentiment: str = ""
    chat: ChatSettings | None = None

    def __post_init__(self):
        given = [f.name for f in dataclasses.fields(self) if getattr(self, f.name)]
        if len(given) != 1:
            raise InputError(
                f"judges: each has exactly one of lab, reward_model, sentiment and chat; one has {', '.join(given) or 'none'}"
            )


@dataclasses.dataclass(frozen=True)
class Judge:
    """A judge by name: `score(rows)` where it scores responses (None: it compares), `prefer(pairs)` → outcomes, and for the lab's gold
    judge `verdict(prompt id, response, finished)`, which grades and marks as well."""

    name: str
    prefer: Callable[[Sequence[Pair]], Sequence[float | None]]
    score: Callable[[Sequence[Row]], Sequence[float]] | None = None
    verdict: Callable | None = None


def open_judge(
    name: str, settings: JudgeSettings, mesh, width: int, batch_size: int, cache: Path,
    continued: Collection[str] = (),
) -> Judge:  # fmt: skip
    """The judge of these settings; a reward model reads rows of at most `width` tokens, those of the prompt ids in `continued` as texts
    to be continued; replies of an endpoint are kept in `cache`."""
    if settings.lab:
        lab = open_lab(settings.lab)
        judge = evaluate.gold_judge(lab)

        def verdict(prompt_id: str, response: str, finished: bool):
            found = judge(prompt_id, response, finished)
            return dataclasses.replace(found, flags=applying(lab.task(prompt_id), found.flags))

        def score(rows: Sequence[Row]) -> list[float]:
            return [judge(prompt_id, response, finished).gold for prompt_id, _, response, finished in rows]

        return Judge(name, by_score(score), score, verdict)
    if settings.reward_model:
        score = open_reward_model(settings.reward_model, mesh, width, batch_size, continued)
    elif settings.sentiment:
        classify = sentiment_evaluate.gold_judge(finished_config(settings.sentiment, "sentiment"))

        def score(rows: Sequence[Row]) -> list[float]:
            return classify([prompt + response for _, prompt, response, _ in rows]).tolist()
    else:
        return Judge(name, ChatJudge(settings.chat, cache))
    return Judge(name, by_score(score), score)


def compare(judge: Judge, pairs: Sequence[Pair]) -> tuple[list[Comparison], dict | None]:
    """The judge's comparisons of these pairs, and of a judge that reads what is to be known of how it did."""
    found = judge.prefer(pairs)
    if isinstance(found, Verdicts):
        told = {key: value for key, value in dataclasses.asdict(found).items() if key != "outcomes"}
        told |= {"pairs": len(pairs), "no_verdict": sum(x is None for x in found.outcomes)}
        return judge_pairs(pairs, judge.name, found.outcomes), told
    return judge_pairs(pairs, judge.name, found), None


def compare_shown(judge: Judge, shown: Sequence[tuple[Pair, ...]]) -> list[Comparison]:
    """The judge's comparisons of what people were shown, each of all pairs of a model's and the baseline's outputs in a ranking."""
    pairs = list(dict.fromkeys(pair for some in shown for pair in some))
    found = judge.prefer(pairs)
    said = dict(zip(pairs, found.outcomes if isinstance(found, Verdicts) else found, strict=True))
    judged = [(some, [said[pair] for pair in some]) for some in shown]
    return [compared(judge.name, judge.name, *both) for both in judged if None not in both[1]]


def open_reward_model(
    path: str, mesh, width: int, batch_size: int, continued: Collection[str] = ()
) -> Callable[[Sequence[Row]], list[float]]:
    """score(rows) of a reward model of any form, in its own template, where the prompt id is in `continued` the response right behind the
    prompt; InputError where the checkpoint is a policy."""
    opened = setup.open_model(path)
    if not opened.scalar:
        raise InputError(
            f"{path}: is a language model; name a reward model (a run's rm/reward, or a folder with a score head)"
        )
    text = setup.TextSettings(opened.tokenizer, opened.template, max_prompt=0, max_response=0)
    tokenizer = setup.load_tokenizer(text)
    own = opened.template if opened.template != "chat" or tokenizer.chat_template else "plain"
    template = setup.template(own, tokenizer)
    model, params = ScalarModel(opened.config), opened.load(mesh)
    scorer = inference.make_scorer(
        model, tokenizer, mesh, width=min(width, opened.config.context), batch_size=batch_size
    )

    def score(rows: Sequence[Row]) -> list[float]:
        scores = np.zeros(len(rows))
        with jax.set_mesh(mesh):
            for shown, goes_on in ((template, False), (TEMPLATES["continuation"], True)):
                own = [i for i, row in enumerate(rows) if (row[0] in continued) == goes_on]
                if own:
                    scores[own] = scorer(params, [rows[i][1:] for i in own], shown)
        return scores.tolist()

    return score


def finished_config(folder: str, kind: str) -> ml_collections.ConfigDict:
    """The config of a recipe's run; InputError where the folder holds none with a section `kind`."""
    path = setup.expand(folder) / "config.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: no config.json; name the folder of a recipe's run (bash launch/quickstart.sh makes one)"
        )
    config = ml_collections.ConfigDict(json.loads(path.read_text()))
    if kind not in config:
        raise InputError(f"{folder}: its config.json has no section {kind!r}: it is another kind of run")
    return config


def open_lab(folder: str) -> Lab:
    """The lab of a recipe's run, made anew."""
    config = recipe.resolve(finished_config(folder, "lab"))
    return make_lab(section(config, "lab", LabSettings), section(config, "text", setup.TextSettings))


def applying(task, flags: dict[str, bool]) -> dict[str, bool]:
    """The marks that are asked of a task: hallucination where it brings its own facts, the constraint where it sets one (Fig. 4)."""
    left_out = {"hallucination": task.closed, "satisfies_constraint": task.constraint is not None}
    return {name: value for name, value in flags.items() if left_out.get(name, True)}


def ask_people(
    lab: Lab, prompts: Sequence[Prompt], responses: dict[str, dict[str, inference.Sampled]], people: int
) -> dict[str, tuple[list[Ranking], list[Rating]]]:
    """{pool: (rankings, ratings)} of the lab's labelers, training and heldout: `people` of each pool rank what all models said to a
    prompt, and one rates it. Equal texts are shown once and come out for every model, as from the labeling application."""
    found = {}
    for pool, members in (("training", lab.labelers), ("heldout", lab.heldout_labelers)):
        rankings, ratings = [], []
        for i, prompt in enumerate(prompts):
            said = {
                model: by_prompt[prompt.id]
                for model, by_prompt in responses.items()
                if prompt.id in by_prompt
            }
            if len(said) < 2:
                continue
            task = lab.task(prompt.id)
            once = {s.text: s.finished for s in said.values()}
            for k in range(min(people, len(members))):
                person = members[(i + k) % len(members)]
                names = [""] * len(once)
                seen = labelers.rank(person, lab.world, prompt, task, list(once), names, list(once.values()))
                place = dict(zip(seen.completions, seen.ranks))
                rankings.append(
                    Ranking(prompt.id, prompt.text, person.id, [s.text for s in said.values()],
                            [place[s.text] for s in said.values()], list(said), [s.finished for s in said.values()])
                )  # fmt: skip
                if not k:
                    rated = [
                        labelers.rate(person, lab.world, prompt, task, s.text, m, s.finished)
                        for m, s in said.items()
                    ]
                    ratings += [dataclasses.replace(r, flags=applying(task, r.flags)) for r in rated]
        found[pool] = (rankings, ratings)
    return found
