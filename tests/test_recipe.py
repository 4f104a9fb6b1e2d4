"""The whole chain at its smallest, by the command line: what the stages leave, resuming, and bad input."""

import json
import runpy
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from instruct_jax.data import builders
from instruct_jax.errors import InputError
from instruct_jax.main import main
from instruct_jax.records import Demonstration, Generation, Prompt, read_jsonl
from instruct_jax.stages import chain, lab_base, lab_collect, recipe, setup
from instruct_jax.training.checkpoint import read_meta
from instruct_jax.training.metrics import read_metrics

CONFIG = str(Path(__file__).parent / "configs" / "tiny_recipe.py")
QUICKSTART = "configs/lab/quickstart.py"
TRIAL = str(Path(__file__).parent / "configs" / "tiny_trial.py")


def config_of(path):
    return runpy.run_path(path)["get_config"]()


def run(workdir, *arguments):
    return main(["main", "--config", CONFIG, "--workdir", str(workdir), *arguments])


def test_the_report_and_its_summary_are_there_with_every_model(finished):
    summary = json.loads((finished / "report" / "summary.json").read_text())
    assert set(summary["win_rate_vs_sft"]) == {"base", "prompted", "flan", "sft", "ppo", "ppo_ptx"}
    for numbers in (
        *summary["win_rate_vs_sft"].values(),
        *summary["rm_accuracy"].values(),
        summary["labeler_agreement"],
    ):
        assert {"mean", "low", "high", "n"} <= set(numbers) and numbers["n"] > 0
    assert (
        {"training_labelers", "heldout_labelers"} == set(summary["rm_accuracy"]) == set(summary["rm_ceiling"])
    )
    assert {"wall_seconds", "peak_rss_bytes", "kl", "versions", "seed", "matmul_gflops"} <= set(summary)
    assert (finished / "report" / "index.html").stat().st_size > 10_000
    assert list((finished / "report").glob("*.png"))


def test_run_again_it_says_that_it_is_done(finished, capsys):
    before = (finished / "report" / "index.html").stat().st_mtime_ns
    assert run(finished) == 0
    assert "already done" in capsys.readouterr().out
    assert (finished / "report" / "index.html").stat().st_mtime_ns == before


def test_wall_time_is_of_this_session_whole_and_of_earlier_ones_in_their_stages(tmp_path, monkeypatch):
    now = iter([100.0, 110.0, 113.0, 120.0])  # opened; a stage begins and ends; asked
    monkeypatch.setattr(chain.time, "perf_counter", lambda: next(now))
    (tmp_path / "times.json").write_text(json.dumps({"data": 5.0, "sft (unfinished)": 2.0}))
    opened = chain.Chain(tmp_path)
    opened.stage("data", lambda: pytest.fail("it is done"))
    opened.stage("sft", lambda: None)
    assert opened.seconds == {"data": 5.0, "sft": 5.0} and opened.wall() == 27.0


def test_a_lost_report_is_made_again_without_training_again(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.glob("*/done.json")}
    (finished / "report" / "index.html").unlink()
    assert run(finished) == 0
    assert (finished / "report" / "index.html").exists()
    assert before and before == {p: p.stat().st_mtime_ns for p in finished.glob("*/done.json")}


@pytest.mark.parametrize("name", ["base", "sft", "rm", "ppo", "ppo_ptx"])
def test_every_training_stage_says_its_speed_and_where_the_time_goes(finished, name):
    rows = [{k: v for k, v in row.items() if k.startswith("perf/")} for row in read_metrics(finished / name)]
    last = rows[-1]
    assert last["perf/tokens_per_second"] > 0 and 0 < last["perf/mfu"] < 1
    shares = {k.rpartition("/")[2]: v for k, v in last.items() if "/time_share/" in k}
    assert sum(shares.values()) == pytest.approx(1)
    programs = {"ppo": {"rollout", "scoring", "update"}, "ppo_ptx": {"rollout", "scoring", "update", "ptx"}}
    assert programs.get(name, {"step"}) == set(shares) - {"data", "checkpoint", "evaluation", "rest"}


@pytest.mark.parametrize("name", ["ppo", "ppo_ptx"])
def test_the_first_minibatch_has_ratio_one_no_kl_and_the_score_as_its_reward(finished, name):
    first = read_metrics(finished / name)[0]
    # One unit in the last place of a log-probability: the gradient's forward is another program than the rollout's.
    assert first["ppo/ratio_max_first"] == pytest.approx(1.0, abs=1e-6)
    assert first["ppo/clip_fraction_first"] == 0.0
    assert first["objective/kl"] == 0.0
    assert first["objective/score_total"] == pytest.approx(first["objective/score"], abs=1e-6)
    assert ("ppo/ptx_loss" in first) == (name == "ppo_ptx")


def test_the_reward_model_gives_demonstrations_zero_on_average(finished):
    # Scored anew, one row at a time's worth of padding: another width than training's.
    from instruct_jax.models.transformer import ScalarModel
    from instruct_jax.stages import inference
    from instruct_jax.stages.settings import section

    config = recipe.resolve(config_of(CONFIG))
    text = section(config, "text", setup.TextSettings)
    tokenizer, mesh = setup.load_tokenizer(text), setup.open_mesh(setup.MeshSettings())
    model = ScalarModel(
        setup.transformer(section(config, "reward_model", setup.ModelSettings), tokenizer.vocab_size)
    )
    with jax.set_mesh(mesh):
        params = setup.load(finished / "rm" / "reward", model, mesh)
        score = inference.make_scorer(model, tokenizer, mesh, width=96, batch_size=16)
        rows = read_jsonl(finished / "records" / "demonstrations.train.jsonl", Demonstration)
        fitting = [
            r for r in rows
            if len(tokenizer.encode(r.prompt + "\n")) <= text.max_prompt and len(tokenizer.encode(r.response)) < text.max_response
        ]  # fmt: skip
        scores = score(
            params, [(r.prompt, r.response, True) for r in fitting], setup.template("plain", tokenizer)
        )
    assert len(fitting) == json.loads((finished / "rm" / "bias.json").read_text())["demonstrations"]
    assert scores.mean() == pytest.approx(0.0, abs=1e-5)
    assert np.std(scores) > 0


@pytest.mark.parametrize("part, name, metric", [
    ("sft", "sft", "judged/rm_score"), ("rm", "rm", "judged/accuracy_training_labelers"), ("ppo", "ppo_ptx", "judged/preferred"),
])  # fmt: skip
def test_a_trial_with_the_recipes_own_settings_trains_the_recipes_very_model(
    finished, tmp_path, part, name, metric
):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    words = ["--config", f"{TRIAL}:{part}", "--workdir", str(tmp_path), f"--config.upstream={finished}"]
    assert main(["main", *words]) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    rows = [
        [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in read_metrics(folder)]
        for folder in (finished / name, tmp_path / part)
    ]
    assert rows[0] == rows[1]
    result = json.loads((tmp_path / "result.json").read_text())
    assert np.isfinite(result[metric]) and (tmp_path / "finished.json").exists()
    written = (tmp_path / "result.json").stat().st_mtime_ns
    assert main(["main", *words]) == 0 and (tmp_path / "result.json").stat().st_mtime_ns == written


def test_a_trial_says_what_its_recipe_lacks_and_trains_one_part(finished, tmp_path, capsys):
    def trial(*words):
        assert main(["main", "--config", f"{TRIAL}:ppo", "--workdir", str(tmp_path / "run"), *words]) == 2
        return capsys.readouterr().err

    assert "no finished recipe in" in trial(f"--config.upstream={tmp_path}")
    assert "minibatch" in trial(f"--config.upstream={finished}", "--config.ppo.train.minibatch_size=5")


def test_no_user_is_in_two_splits_and_rankings_have_ties_and_k_of_4_to_5(finished):
    data = finished / "data"
    users = [{p.user for p in builders.open_source(data, "prompts", s)} for s in ("train", "valid", "test")]
    assert not users[0] & users[1] and not users[0] & users[2] and not users[1] & users[2]
    rankings = list(builders.open_source(data, "rankings", "train"))
    assert {len(r.ranks) for r in rankings} <= {2, 3, 4, 5} and max(len(r.ranks) for r in rankings) == 5
    assert any(len(set(r.ranks)) < len(r.ranks) for r in rankings)


def test_every_labeler_sees_outputs_of_every_policy(monkeypatch):
    monkeypatch.setattr(lab_collect.labelers, "rank", lambda person, *rest: (person, rest[4][0]))
    asked = [Prompt(str(i), "p") for i in range(8)]
    lab = types.SimpleNamespace(world=None, tasks={p.id: None for p in asked})
    rank = lab_collect.lab_ranker(lab, ["ann", "bo"], asked, policies=2)
    shown = [
        Generation(p.id, p.text, ("ppo_init", "sft")[i % 2], ["a", "b"], 1.0, [True, True])
        for i, p in enumerate(asked)
    ]
    seen = {rank(i, g) for i, g in enumerate(shown)}
    assert seen == {(person, model) for person in ("ann", "bo") for model in ("ppo_init", "sft")}


def test_few_shot_demonstrations_are_trained_on_and_those_too_long_are_counted(finished):
    rows = read_jsonl(finished / "records" / "demonstrations.train.jsonl", Demonstration)
    few_shot = [r for r in rows if r.prompt_id.startswith("few-shot")]
    left_out = json.loads((finished / "lab.json").read_text())["removed"]["too long with examples"]
    assert few_shot and len(few_shot) + left_out == 3 * 2
    tokenizer = setup.load_tokenizer(
        setup.TextSettings(str(lab_base.ASSETS / "tokenizer.model"), "plain", 0, 0)
    )
    assert max(len(tokenizer.encode(r.prompt + "\n")) for r in few_shot) <= 64


def test_every_sft_epoch_is_kept_and_one_is_chosen_by_reward_model_score(finished):
    chosen = json.loads((finished / "select" / "select.json").read_text())
    scores = chosen["sft"]["scores"]
    assert len(scores) == 2
    assert chosen["sft"]["best"] == max(scores, key=lambda step: scores[step]["mean"])
    assert set(chosen) == {"sft", "flan", "prefix"}


def test_a_recipe_that_shares_prompts_under_another_kernel_is_refused_before_anything_runs(tmp_path):
    config = config_of(CONFIG)
    with config.unlocked():
        config.reward_model.attention = "splash"
    with pytest.raises(
        InputError, match="config.rm.data.shared_prompts and config.reward_model.attention = 'splash'"
    ):
        recipe.run(config.lock(), tmp_path)
    assert not list(tmp_path.iterdir())


class Reached(Exception):
    pass


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What the stages are started with, {name: config}, up to `last`; only placing the shipped bases is real work."""
    configs = {}

    def record(config, *_):
        configs[config.name] = config

    stages = ("lab_data", "train_lm", "lab_collect", "train_rm", "select", "train_ppo", "evaluate")
    for module in stages:
        monkeypatch.setattr(getattr(recipe, module), "run", record)
    monkeypatch.setattr(recipe.builders, "build", lambda *_: None)
    chosen = {"prefix": {"best": "none"}, "sft": {"best": "3"}}
    (tmp_path / "select").mkdir()
    (tmp_path / "select" / "select.json").write_text(json.dumps(chosen))

    def start(last, config):
        def stop(name, *_):
            if name == last:
                raise Reached

        plain = recipe.Chain.stage
        monkeypatch.setattr(
            recipe.Chain, "stage", lambda chain, name, work: [plain(chain, name, work), stop(name)]
        )
        with pytest.raises(Reached):
            recipe.run(config.lock(), tmp_path)
        return configs

    return start


def test_a_reward_model_of_the_policys_shape_starts_from_sft(started, tmp_path):
    rm = started("rm", config_of(QUICKSTART))["rm"]
    assert (rm.model.variant, rm.init) == ("lab", str(tmp_path / "sft"))
    assert not (tmp_path / "reward_base").exists()


def test_a_reward_model_of_another_shape_starts_from_the_shipped_base_of_its_own(started, tmp_path):
    config = config_of(QUICKSTART)
    with config.unlocked():
        config.reward_model.variant = "lab_reward"
    configs = started("rm", config)
    assert (configs["rm"].model.variant, configs["rm"].init) == ("lab_reward", str(tmp_path / "reward_base"))
    assert configs["sft"].model.variant == "lab" and configs["sft"].init == str(tmp_path / "base")
    for name, width, layers in (("base", 128, 4), ("reward_base", 192, 6)):
        shape = read_meta(tmp_path / name)["model"]
        assert (shape["width"], shape["layers"]) == (width, layers)


def test_each_ppo_run_is_evaluated_by_its_own_settings_and_none_has_to_be_there(started, tmp_path):
    config = config_of(CONFIG)
    with config.unlocked():
        del config.ppo_ptx
        config.ppo.train.update(dict(ema_decay=None, batch_size=8))
    evaluated = started("evaluate", config)["evaluate"]
    assert evaluated.curves.to_dict() == {
        "ppo": {"folder": str(tmp_path / "ppo"), "subtree": "policy/params", "batch_size": 8}
    }
    assert evaluated.models.ppo.subtree == "policy/params" and "ppo_ptx" not in evaluated.models


def test_a_shape_without_a_shipped_base_is_refused_with_those_that_have_one(monkeypatch, tmp_path):
    config = config_of(QUICKSTART)
    with config.unlocked():
        config.model.variant = config.reward_model.variant = "tiny"
    monkeypatch.setattr(recipe.lab_data, "run", lambda *_: None)
    with pytest.raises(InputError, match="no base model of it, only of lab and lab_reward"):
        recipe.run(config.lock(), tmp_path)


def test_a_section_reward_base_is_there_where_the_reward_model_has_another_shape_and_only_there():
    config = config_of(CONFIG)
    with config.unlocked():
        config.reward_base = config.base
    with pytest.raises(InputError, match="config.reward_base: reward_model has the shape of model"):
        recipe.check(config)
    with config.unlocked():
        config.reward_model.variant = "lab"
    recipe.check(config)
    with config.unlocked():
        del config.reward_base
    with pytest.raises(InputError, match="config.reward_base: .* add the section"):
        recipe.check(config)


@pytest.mark.parametrize(
    "argument, says",
    [
        ("--config.ppo_ptx.train.minibatch_size=7", "train.batch_size 16 does not split"),
        ("--config.ppo_ptx.train.episodes=33", "use 32"),
        ("--config.mesh.data=3", "16 rows does not divide"),
        ("--config.text.template=plane", "plain"),
        ("--config.sft.train.epoch=3", "config.sft.train.epochs"),
        ("--config.model.variant=tinny", "tiny"),
        ("--config.text.tokenizer=nowhere.model", "nowhere.model"),
    ],
)
def test_a_wrong_field_is_named_before_anything_runs(tmp_path, capsys, argument, says):
    assert run(tmp_path / "run", argument) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert not (tmp_path / "run" / "records").exists()


@pytest.mark.parametrize(
    "field, rows",
    [
        ("sft.data.valid_batch_size", 3),
        ("collect.collect.batch_size", 63),
        ("select.select.batch_size", 15),
        ("ppo.train.minibatch_size", 1),
        ("evaluate.evaluate.batch_size", 31),
    ],
)
def test_so_is_one_of_rows_that_do_not_divide_over_the_mesh(tmp_path, capsys, field, rows):
    assert run(tmp_path / "run", "--config.mesh.data=2", f"--config.{field}={rows}") == 2
    error = capsys.readouterr().err
    assert f"config.{field}: a batch of {rows} rows does not divide" in error and "Traceback" not in error
    assert not (tmp_path / "run" / "records").exists()


@pytest.mark.parametrize(
    "config",
    sorted(Path("configs").glob("[sr][fm]*/gpt3_*.py")),
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_a_stage_without_its_inputs_says_what_is_missing(tmp_path, capsys, config):
    assert (
        main(
            [
                "main",
                "--config",
                str(config),
                "--workdir",
                str(tmp_path / "run"),
                "--config.mesh.fsdp=1",
                "--config.mesh.tensor=1",
            ]
        )
        == 2
    )
    assert "tokenizer" in capsys.readouterr().err
