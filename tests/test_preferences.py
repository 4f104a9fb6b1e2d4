"""The preference evaluation at its smallest: untrained models on the lab's prompts, every kind of judge and people, by the command line."""

import json
import shutil
import sys
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

from instruct_jax import export
from instruct_jax.data.lab.prefixes import as_pages
from instruct_jax.errors import InputError
from instruct_jax.evaluation.comparisons import agreement, by_score, from_rankings
from instruct_jax.main import main
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.records import Ranking, read_jsonl, write_jsonl
from instruct_jax.stages import inference, judging, lab_data, preferences, recipe, setup, states, train_rm
from instruct_jax.stages.settings import section
from instruct_jax.text.templates import TEMPLATES
from instruct_jax.training.checkpoint import Checkpoints
from instruct_jax.training.state import TrainState

CONFIG = Path(__file__).parent / "configs" / "tiny_preferences.py"


def save(folder, model, stage, config, seed):
    params = jax.jit(lambda key: states.init_params(model, key))(jax.random.key(seed))
    checkpoints = Checkpoints(folder / "checkpoints")
    for step in (1, 2):
        state = TrainState(np.int32(step), jax.tree.map(lambda x, step=step: x * step, params), (), None)
        checkpoints.save(
            step, jax.tree.map(jax.numpy.asarray, state), setup.meta(stage, config, model.config), wait=True
        )
    checkpoints.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The folder of a lab's recipe as the evaluation wants it: its config, its test prompts, two policies, a reward model."""
    sys.path.insert(0, str(CONFIG.parent))
    import tiny_recipe

    folder = tmp_path_factory.mktemp("lab")
    config = recipe.resolve(tiny_recipe.get_config())
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    text = section(config, "text", setup.TextSettings)
    made = lab_data.make_lab(section(config, "lab", lab_data.LabSettings), text)
    write_jsonl(
        folder / "prompts.jsonl",
        [p for p in made.sets["test"] if p.use_case in ("closed_qa", "generation", "extract")],
    )
    shape = setup.transformer(setup.ModelSettings("tiny", 112), setup.load_tokenizer(text).vocab_size)
    for seed, name in enumerate(("sft", "ppo_ptx")):
        save(folder / name, PolicyModel(shape), "sft", config, seed)
    save(folder / "reward", ScalarModel(shape), "rm", config, 7)
    assert export.main(["export", "--model", str(folder / "ppo_ptx"), "--out", str(folder / "exported")]) == 0
    return folder


def run(lab, workdir, *words):
    return main(["main", "--config", f"{CONFIG}:{lab}", "--workdir", str(workdir), *words])


@pytest.fixture(scope="module")
def done(lab, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("preferences")
    assert run(lab, workdir) == 0
    return workdir


def test_every_judge_and_pool_compares_every_model_on_both_kinds_of_prompts(done):
    found = json.loads((done / "preferences.json").read_text())
    assert set(found["win_rates"]) == {"training", "heldout", "gold", "reward_model"}
    for judge, by_style in found["win_rates"].items():
        assert set(by_style) == {"users", "pages"}
        own = {"sft"} if judge in ("gold", "reward_model") else set()  # the baseline meets its second sample
        for rates in by_style.values():
            assert set(rates) == {"ppo_ptx", "exported", "prompted"} | own
            assert all(
                0 <= r["mean"] <= 1 and r["n"] > 0 and 0 < r["permutation_p"] <= 1 for r in rates.values()
            )
    assert found["win_rates"]["training"]["users"]["ppo_ptx"]["labelers"] == 3
    assert set(found["grades"]) == {"training", "heldout", "gold"} and set(found["scores"]) == {
        "gold",
        "reward_model",
    }
    pairs = {frozenset((row["first"], row["second"])) for row in found["agreement"]}
    assert {
        frozenset(p)
        for p in (("training",), ("training", "heldout"), ("heldout", "gold"), ("gold", "reward_model"))
    } <= pairs


def test_marks_are_rates_of_the_prompts_that_ask_for_them(done):
    flags = json.loads((done / "preferences.json").read_text())["flags"]["gold"]["sft"]
    rows = [json.loads(line) for line in (done / "responses.jsonl").read_text().splitlines()]
    assert flags["fails_task"]["n"] == sum(r["model"] == "sft" for r in rows)
    assert 0 < flags["hallucination"]["n"] < flags["fails_task"]["n"] > flags["satisfies_constraint"]["n"] > 0


def test_an_exported_model_says_what_the_run_says_and_pages_end_with_their_line(done):
    rows = [json.loads(line) for line in (done / "responses.jsonl").read_text().splitlines()]
    pages = [r for r in rows if r["source"] == "customer-gpt3"]
    assert pages and all("\n" not in r["response"] for r in pages)
    assert all(r["prompt"].endswith((": ", ":")) and r["prompt_id"].endswith("/page") for r in pages)
    found = json.loads((done / "preferences.json").read_text())
    assert (
        found["kl"]["ppo_ptx"]["mean"] == pytest.approx(found["kl"]["exported"]["mean"], abs=0.3)
        and "sft" not in found["kl"]
    )
    assert found["kl"]["ppo_ptx"]["mean"] > 0


def test_best_of_n_scores_higher_with_n_at_the_kl_that_is_computed(done):
    found = json.loads((done / "preferences.json").read_text())["optimisers"]
    points = found["best_of_n"]
    assert [p["n"] for p in points] == [1, 2, 4]
    assert [p["kl"] for p in points] == pytest.approx([0, np.log(2) - 1 / 2, np.log(4) - 3 / 4])
    scores = [p["scores"]["reward_model"]["mean"] for p in points]
    assert scores == sorted(scores) and scores[0] < scores[-1]
    assert [p["step"] for p in found["ppo_ptx"]] == [1, 2]


def test_the_peoples_records_are_those_of_the_labeling_application(done, lab):
    rankings = read_jsonl(done / "rankings.heldout.jsonl", Ranking)
    assert {r.labeler.rpartition("-")[0] for r in rankings} == {"held-out"}
    for r in rankings:
        ranks = {}
        for text, rank in zip(r.completions, r.ranks):
            assert ranks.setdefault(text, rank) == rank  # what is the same text is one rank


def test_the_page_the_tables_and_the_plots_are_there(done):
    page = (done / "index.html").read_text()
    assert page.count("<img") == len(list(done.glob("*.png"))) >= 4
    assert "## Preference against SFT" in (done / "README.md").read_text()


def test_files_of_people_are_read_and_judges_see_the_same_outputs(done, lab, tmp_path):
    words = [
        "--config.people.lab=",
        f"--config.people.rankings.heldout=('{done / 'rankings.heldout.jsonl'}',)",
    ]
    assert run(lab, tmp_path / "run", *words, "--config.optimisers.prompts=2") == 0
    found, before = (json.loads((d / "preferences.json").read_text()) for d in (tmp_path / "run", done))
    assert found["win_rates"]["heldout"] == before["win_rates"]["heldout"]
    assert found["win_rates"]["gold"] == before["win_rates"]["gold"]  # equal for equal seed
    both = [
        [r for r in f["agreement"] if (r["first"], r["second"]) == ("heldout", "gold")][0]
        for f in (found, before)
    ]
    assert both[0]["mean"] == both[1]["mean"] and both[0]["kappa"] == both[1]["kappa"]


def test_a_judge_sees_every_output_of_a_ranking_and_agrees_with_who_ranks_as_it_does():
    words = ["b", "dddd", "ccc", "a"]
    rankings = [
        Ranking(f"p{i}", "ask", who, [words[k] for k in order], [4 - len(words[k]) + 1 for k in order],
                [("ppo", "ppo", "sft", "sft")[k] for k in order])
        for i in range(3) for who, order in (("ann", (0, 1, 2, 3)), ("bob", (2, 0, 3, 1)))
    ]  # fmt: skip
    asked = []

    def longer(rows):
        asked.extend(rows)
        return [len(text) for _, _, text, _ in rows]

    pools = {"heldout": (rankings, [])}
    judges = {"long": judging.Judge("long", by_score(longer))}
    found = preferences.judged_as_people_saw(pools, judges, "sft")
    assert len(asked) == 12
    # dddd beats ccc and a; b loses to ccc and ties with a
    assert [(c.prompt_id, c.won, c.lost, c.pairs) for c in found] == [
        (f"p{i}", 0.5, 0.25, 4) for i in range(3)
    ]
    people = from_rankings(rankings, "sft", "heldout")
    (both,) = [row for row in agreement([*people, *found]) if row["first"] != row["second"]]
    assert (both["mean"], both["n"], both["kappa"]) == (1.0, 6, None)


def test_without_people_judges_are_compared_on_what_was_said_and_what_the_baseline_could_not_read_is_not_asked(
    lab, tmp_path
):
    prefix = tmp_path / "prefix.txt"
    prefix.write_text("please " * 84 + "{prompt}")  # about half of the prompts fit behind it
    words = ["--config.people.lab=", "--config.baseline=prompted", f"--config.models.prompted.prefix_file={prefix}",
             "--config.prompts.pages=False", "--config.optimisers.prompts=16"]  # fmt: skip
    assert run(lab, tmp_path / "run", *words) == 0
    found = json.loads((tmp_path / "run" / "preferences.json").read_text())
    assert [(row["first"], row["second"]) for row in found["agreement"]] == [("gold", "reward_model")]
    answered = found["scores"]["gold"]["prompted"]["n"]
    assert 0 < answered < found["scores"]["gold"]["sft"]["n"]
    assert found["optimisers"]["ppo_ptx"][0]["win"]["gold"]["n"] == answered


@pytest.mark.slow
def test_each_fold_is_trained_without_its_group_and_a_finished_one_not_again(lab, tmp_path, monkeypatch):
    words = ["red", "blue", "soup", "bread"]
    rows = [
        Ranking(f"p{i}", f"list {words[i % 4]} {i}", f"l{i % 4}", words[:3], [1, 2, 3], ["m"] * 3)
        for i in range(48)
    ]
    write_jsonl(tmp_path / "rankings.jsonl", rows)
    tokenizer = json.loads((lab / "config.json").read_text())["text"]["tokenizer"]
    given = {"init": lab / "sft", "groups.rankings": f"('{tmp_path / 'rankings.jsonl'}',)", "groups.prompts": "()", "groups.groups": 2,
             "model.variant": "tiny", "model.context": 112, "data.batch_size": 8, "mesh.data": 1, "text.tokenizer": tokenizer}  # fmt: skip
    argv = ["main", "--config", "configs/evaluate/labeler_groups.py", "--workdir", str(tmp_path / "run")]
    argv += [f"--config.{name}={value}" for name, value in given.items()]
    assert main(argv) == 0
    found = json.loads((tmp_path / "run" / "labeler_groups.json").read_text())
    assert sorted(name for fold in found["folds"] for name in fold["labelers"]) == ["l0", "l1", "l2", "l3"]
    for number, fold in enumerate(found["folds"]):
        trained = read_jsonl(
            tmp_path / "run" / f"fold_{number}" / "records" / "rankings.train.jsonl", Ranking
        )
        assert len(trained) == fold["trained_on"] and not {r.labeler for r in trained} & {*fold["labelers"]}
        assert fold["outside"]["n"] == 72 and fold["inside"]["n"] == 3 * (24 - len(trained))
    monkeypatch.setattr(train_rm, "run", lambda *_: pytest.fail("a finished fold was trained again"))
    assert main(argv) == 0
    again = json.loads((tmp_path / "run" / "labeler_groups.json").read_text())
    assert (again["folds"], again["pooled"]) == (found["folds"], found["pooled"])


def test_a_reward_model_reads_a_text_to_be_continued_as_the_models_did(lab):
    mesh = setup.open_mesh(setup.MeshSettings(data=-1))
    rows = [(i, "kofi lives in", " orlen .", True) for i in ("page", "prompt")]
    shown, goes_on = (
        judging.open_reward_model(str(lab / "reward"), mesh, 64, 8, ids)(rows) for ids in ((), ("page",))
    )
    assert shown[0] == shown[1] == goes_on[1] != goes_on[0]
    opened = setup.open_model(str(lab / "reward"))
    tokenizer = setup.load_tokenizer(
        setup.TextSettings(opened.tokenizer, opened.template, max_prompt=0, max_response=0)
    )
    scorer = inference.make_scorer(ScalarModel(opened.config), tokenizer, mesh, width=64, batch_size=8)
    with jax.set_mesh(mesh):
        [want] = scorer(opened.load(mesh), [rows[0][1:]], TEMPLATES["continuation"])
    assert goes_on[0] == pytest.approx(want)


@pytest.mark.parametrize("word, says", [
    ("--config.optimisers.n=(1, 5)", "config.optimisers.n holds 5"), ("--config.optimisers.n=(0,)", "holds 0"),
    ("--config.baseline=gpt", "none of config.models"), ("--config.optimisers.chooser=nobody", "name a judge that scores"),
    ("--config.judges.gold.lab=", "exactly one of lab"), ("--config.sample.max_prompt=200", "leaves room for"),
    ("--config.sample.batch_size=0", "config.sample.batch_size: a batch of 0"), ("--config.prompts.count=-1", "count -1"),
    ("--config.sample.max_prompt=1", "config.models.exported: every prompt has more than"),
    ("--config.sample.continued=('customer', 'customer-gpt3')", "optimisers"),
    ("--config.judges.reward_model.reward_model={lab}/sft", "is a language model"),
    ("--config.judges.gold.lab={lab}/sft", "no config.json"),
    ("--config.models.prompted.prefix_file={lab}/config.json", "lacks {prompt}"),
])  # fmt: skip
def test_a_wrong_field_is_named(lab, tmp_path, capsys, word, says):
    assert run(lab, tmp_path / "run", word.replace("{lab}", str(lab))) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error and not (tmp_path / "run" / "preferences.json").exists()


def test_a_judge_of_a_lab_refuses_prompts_that_are_not_its_own(lab, tmp_path):
    judge = judging.open_judge("gold", judging.JudgeSettings(lab=str(lab)), None, 0, 0, tmp_path)
    with pytest.raises(InputError, match="none of this lab's"):
        judge.score([("elsewhere", "ask", "answer", True)])


def test_no_prompt_and_two_of_one_id_are_refused(lab, tmp_path):
    shutil.copy(lab / "prompts.jsonl", tmp_path / "twice.jsonl")
    settings = preferences.PromptSettings((str(lab / "prompts.jsonl"), str(tmp_path / "twice.jsonl")))
    with pytest.raises(InputError, match="same id"):
        preferences.read_prompts(settings, 0)
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(InputError, match="prompts.files: no prompt is in .*none.jsonl"):
        preferences.read_prompts(preferences.PromptSettings((str(tmp_path / "none.jsonl"),)), 0)
    chosen = preferences.read_prompts(
        preferences.PromptSettings((str(lab / "prompts.jsonl"),), count=5, pages=True), 0
    )
    assert len(chosen) == 10 and as_pages(chosen[:5]) == chosen[5:]


def test_the_shipped_configs_name_fields_that_exist():
    for name in ("preferences", "reward_models", "labeler_groups", "tax"):
        namespace = {}
        exec(
            (Path("configs/evaluate") / f"{name}.py").read_text(), namespace
        )  # a config file, as the command line reads it
        config = namespace["get_config"]()
        assert isinstance(config, ml_collections.ConfigDict)
        from instruct_jax.main import load_stage

        load_stage(config.stage).check(config)
