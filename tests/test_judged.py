"""What the recipe's records, choices and figures are of: whose labels, whose prompts, whose judgement, which model."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from instruct_jax.data.lab import gold, labelers
from instruct_jax.evaluation import reward_models
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.records import Demonstration, Generation, Prompt, Ranking, Rating, read_jsonl
from instruct_jax.reports.page import write_report
from instruct_jax.reports.text import duration
from instruct_jax.stages import collect, inference, lab_tasks, recipe, select, setup, train_ppo
from instruct_jax.stages.chain import stage_config
from instruct_jax.stages.inference import Sampled
from instruct_jax.stages.lab_data import LabSettings, make_lab
from instruct_jax.stages.select import Candidate
from instruct_jax.stages.settings import section
from instruct_jax.text.templates import TEMPLATES

CONFIG = str(Path(__file__).parent / "configs" / "tiny_recipe.py")


@pytest.fixture(scope="module")
def config():
    return recipe.resolve(runpy.run_path(CONFIG)["get_config"]())


@pytest.fixture(scope="module")
def lab(config):
    return make_lab(section(config, "lab", LabSettings), section(config, "text", setup.TextSettings))


@pytest.fixture(scope="module")
def evaluation(finished):
    return json.loads((finished / "evaluate" / "evaluation.json").read_text())


def rankings_of(finished, split):
    return read_jsonl(finished / "records" / f"rankings.{split}.jsonl", Ranking)


def test_held_out_labelers_label_nothing_that_is_trained_on(finished, lab):
    training, held_out = ({person.id for person in pool} for pool in (lab.labelers, lab.heldout_labelers))
    assert len(training) == 3 and len(held_out) == 2 and not training & held_out
    records = finished / "records"
    written = read_jsonl(records / "demonstrations.train.jsonl", Demonstration)
    assert {row.labeler for row in written} == training
    for split in ("train", "valid", "valid_second"):
        assert {row.labeler for row in rankings_of(finished, split)} == training, split
    assert {row.labeler for row in read_jsonl(records / "ratings.valid.jsonl", Rating)} <= training
    for split in ("valid_heldout", "valid_heldout_second"):
        assert {row.labeler for row in rankings_of(finished, split)} == held_out, split


def test_two_labelers_of_a_pool_rank_the_same_outputs_and_are_never_one_person(finished):
    for pool in ("valid", "valid_heldout"):
        first, second = rankings_of(finished, pool), rankings_of(finished, f"{pool}_second")
        assert [(r.prompt_id, r.completions) for r in first] == [(r.prompt_id, r.completions) for r in second]
        assert all(a.labeler != b.labeler for a, b in zip(first, second, strict=True))


def test_k_is_drawn_from_4_to_5_and_only_equal_answers_are_merged(finished):
    generated = read_jsonl(finished / "records" / "generations.train.jsonl", Generation)
    assert {len(g.completions) for g in generated} == {4, 5}
    distinct = {g.prompt_id: len(set(zip(g.completions, g.finished))) for g in generated}
    ranked = {r.prompt_id: len(r.completions) for r in rankings_of(finished, "train")}
    assert ranked == {prompt: n for prompt, n in distinct.items() if n > 1}


def test_texts_are_one_only_if_both_ended_alike_and_a_prompt_with_one_is_not_ranked():
    def of(id, completions, finished):
        return Generation(id, "ask", "sft", completions, 1.0, finished)

    ranked = collect.rank_all(
        [of("a", ["x", "x", "y"], [True, True, True]), of("b", ["x", "x"], [True, False]), of("c", ["x", "x"], [True, True])],
        lambda i, g: (i, g.completions, g.finished),
    )  # fmt: skip
    assert ranked == [(0, ["x", "y"], [True, True]), (1, ["x", "x"], [True, False])]


def test_the_lab_drops_what_the_cleaning_rules_name(config):
    settings = replace(section(config, "lab", LabSettings), cap_per_user=5)
    text = replace(section(config, "text", setup.TextSettings), max_prompt=24)
    lab = make_lab(settings, text)
    tokenizer = setup.load_tokenizer(text)
    template = setup.template(text.template, tokenizer)
    kept = [
        p
        for name in ("sft", "rm", "sft_valid", "rm_valid", "ppo", "ppo_valid", "test")
        for p in lab.sets[name]
    ]
    owned = {p.id: p.user for p in kept}
    assert max(np.unique(list(owned.values()), return_counts=True)[1]) <= settings.cap_per_user
    assert max(map(len, tokenizer.encode_prompts(template, [p.text for p in kept]))) <= text.max_prompt
    assert set(lab.removed) == {"long common prefix", "over the cap per user", "too long"}
    assert len(owned) + sum(lab.removed.values()) == settings.prompts and min(lab.removed.values()) > 0


def test_models_are_judged_on_every_test_prompt_by_the_gold_judge(finished, lab, evaluation):
    asked = [p.id for p in read_jsonl(finished / "records" / "prompts.test.jsonl", Prompt)][:32]
    rows = [json.loads(line) for line in (finished / "evaluate" / "responses.jsonl").read_text().splitlines()]
    by_model = {}
    for row in rows:
        by_model.setdefault(row["model"], []).append(row)
    assert set(by_model) == {"base", "prompted", "flan", "sft", "sft_again", "ppo", "ppo_ptx"}
    for model, judged in by_model.items():
        ids = [row["prompt_id"] for row in judged]
        assert ids == (asked if model != "prompted" else [i for i in asked if i in set(ids)]), model
    for row in rows:
        verdict = gold.judge(lab.world, lab.tasks[row["prompt_id"]], row["response"], row["finished"])
        assert (row["gold"], row["likert"], row["flags"]) == (verdict.gold, verdict.likert, verdict.flags)
    for model, found in evaluation["likert"].items():
        assert found["mean"] == pytest.approx(np.mean([row["likert"] for row in by_model[model]]))


def test_reward_model_figures_are_of_the_pools_that_they_name(finished, lab, evaluation):
    for pool, split, key, people in (
        ("training_labelers", "valid", "labeler_agreement", lab.labelers),
        ("heldout_labelers", "valid_heldout", "labeler_agreement_heldout", lab.heldout_labelers),
    ):
        first, second = rankings_of(finished, split), rankings_of(finished, f"{split}_second")
        ranks, others = [r.ranks for r in first], [r.ranks for r in second]
        views = [
            [labelers.common_view(people, lab.world, lab.tasks[r.prompt_id], c, f) for c, f in zip(r.completions, r.finished)]
            for r in first
        ]  # fmt: skip
        ids = [r.prompt_id for r in first]
        assert evaluation["rm_ceiling"][pool] == reward_models.ranking_accuracy(views, ranks, ids)
        assert evaluation[key] == reward_models.labeler_agreement(ranks, others)
        decided = sum(a != b for r in ranks for i, a in enumerate(r) for b in r[:i])
        tied = sum(a == b for r in ranks for i, a in enumerate(r) for b in r[:i])
        assert (evaluation["rm_accuracy"][pool]["n"], evaluation["rm_accuracy"][pool]["ties"]) == (
            decided,
            tied,
        )


def test_the_accuracy_is_of_the_trained_reward_model(finished, config, evaluation):
    text = section(config, "text", setup.TextSettings)
    tokenizer, mesh = setup.load_tokenizer(text), setup.open_mesh(setup.MeshSettings())
    shape = setup.transformer(section(config, "reward_model", setup.ModelSettings), tokenizer.vocab_size)
    model, right = ScalarModel(shape), []
    with jax.set_mesh(mesh):
        params = setup.load(finished / "rm" / "reward", model, mesh)
        score = inference.make_scorer(model, tokenizer, mesh, width=96, batch_size=16)
        rows = rankings_of(finished, "valid")
        flat = iter(score(params, [(r.prompt, c, f) for r in rows for c, f in zip(r.completions, r.finished)],
                          setup.template("plain", tokenizer)))  # fmt: skip
    for r in rows:
        scores = [next(flat) for _ in r.completions]
        for i, a in enumerate(r.ranks):
            right += [(scores[i] > scores[j]) == (a < b) for j, b in enumerate(r.ranks[:i]) if a != b]
    assert evaluation["rm_accuracy"]["training_labelers"]["mean"] == pytest.approx(np.mean(right), abs=1e-3)


def test_a_candidate_is_scored_on_its_own_answers_by_the_reward_model():
    answers = {"short": "a", "long": "a b c"}
    given = []

    def sample(params, prompts, template, key):
        assert template is TEMPLATES["plain"]
        return [Sampled(f"{answers[params]} {p}", p != "q2", [1, 2]) for p in prompts]

    def score(rows, template):
        given.append(rows)
        return np.array([10.0 - len(response) + finished for _, response, finished in rows])

    candidates = [Candidate(name, lambda name=name: name, TEMPLATES["plain"]) for name in answers]
    table = select.score_candidates(
        candidates, ["q1", "q2"], sample, score, TEMPLATES["verbatim"], jax.random.key(0)
    )
    assert given[1] == [("q1", "a b c q1", True), ("q2", "a b c q2", False)]
    assert (table["short"]["mean"], table["long"]["mean"]) == (6.5, 2.5) and select.best(table) == "short"


def test_the_chosen_epoch_and_prefix_are_the_ones_that_are_judged(tmp_path):
    chosen = {"sft": {"best": "40"}, "flan": {"best": "7"}, "prefix": {"best": "two"}}
    models = recipe.contenders(tmp_path, chosen, {"ppo_ptx": "policy/ema"})
    assert models["sft"] == {"checkpoint": str(tmp_path / "sft"), "step": 40}
    assert models["flan"] == {"checkpoint": str(tmp_path / "flan"), "step": 7}
    assert models["prompted"] == {"checkpoint": str(tmp_path / "base"), "prefix": "two"}
    assert models["base"] == {"checkpoint": str(tmp_path / "base"), "raw": True}
    assert models["reference"] == {"checkpoint": str(tmp_path / "ppo_init")}
    assert models["ppo_ptx"] == {"checkpoint": str(tmp_path / "ppo_ptx"), "subtree": "policy/ema"}


def test_ppo_starts_from_ppo_init_and_its_value_model_from_the_reward_model(
    finished, config, monkeypatch, tmp_path
):
    class Reached(Exception):
        pass

    def fit(step, state, *_, **__):
        raise Reached(state)

    monkeypatch.setattr(train_ppo, "fit", fit)
    given = dict(init=str(finished / "ppo_init"), reward=str(finished / "rm" / "reward"))
    own = stage_config(config, "ppo_ptx", finished, stage="ppo", **given)
    with pytest.raises(Reached) as reached:
        train_ppo.run(own, tmp_path)
    (state,) = reached.value.args
    text = section(config, "text", setup.TextSettings)
    shape = setup.transformer(
        section(config, "model", setup.ModelSettings), setup.load_tokenizer(text).vocab_size
    )
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    with jax.set_mesh(mesh):
        expected = (
            setup.load(finished / "ppo_init", PolicyModel(shape), mesh),
            setup.load(finished / "rm" / "reward", ScalarModel(shape), mesh),
        )
    for params, of in zip((state.policy.params, state.value.params), expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, params, of)
    assert np.abs(np.asarray(state.value.params["head"]["kernel"])).max() > 0


def test_a_choice_of_four_goes_by_the_mean_log_probability_of_a_token_and_its_entropy_by_the_whole(lab):
    class Models:
        class tokenizer:
            @staticmethod
            def encode_batch(texts):
                return [[1] * (4 if i % 4 == 0 else 1) for i in range(len(texts))]

        @staticmethod
        def logprobs(params, prompts, sampled, template, temperature):
            assert len(prompts) == len(sampled) and temperature == 1.0
            # The right one, first of its four, is the likeliest a token and the least likely as a whole.
            return np.tile([-4.0, -2.0, -2.0, -2.0], len(prompts) // 4)

    bench = SimpleNamespace(lab=lab, settings=SimpleNamespace(task_items=5), models=Models)
    rows = lab_tasks._choices(bench, "sft", None)
    assert [row.value for row in rows if row.task == "choice"] == [1.0] * 5
    shares = np.exp([-4.0, -2, -2, -2]) / np.exp([-4.0, -2, -2, -2]).sum()
    for row in rows:
        assert row.task == "choice" or row.value == pytest.approx(-(shares * np.log2(shares)).sum())


def test_the_clock_is_read_when_the_plots_are_drawn_and_the_page_says_so_too(finished, tmp_path):
    def clock():
        assert list(tmp_path.glob("*.png"))
        return 3723.04

    write_report(tmp_path, json.loads((finished / "report" / "summary.json").read_text()), clock)
    assert json.loads((tmp_path / "summary.json").read_text())["wall_seconds"] == 3723.0
    assert duration(3723.0) in (tmp_path / "index.html").read_text()
