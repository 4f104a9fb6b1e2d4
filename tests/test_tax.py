"""The alignment tax: costs by hand, scores from every place that a run leaves them in, sweeps, and what is wrong with a file."""

import json
from pathlib import Path

import ml_collections
import pytest

from configs.evaluate.tax import get_config
from instruct_jax.errors import InputError
from instruct_jax.reports import tax as report
from instruct_jax.stages import tax


def score(mean, half=0.01, metric="accuracy", up=True, n=300):
    return {
        "metric": metric,
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "n": n,
        "higher_is_better": up,
    }


MODELS = {
    "base": {"recall": score(0.8), "documents": score(2.0, metric="nats", up=False)},
    "ppo": {"recall": score(0.6), "documents": score(2.5, metric="nats", up=False)},
    "ppo_ptx": {"recall": score(0.75), "documents": score(1.9, metric="nats", up=False)},
}


def rows(models=MODELS, size=1e6, run="one"):
    return [
        {"run": run, "model": m, "size": size, "task": t, **v}
        for m, tasks in models.items()
        for t, v in tasks.items()
    ]


def test_what_is_lost_is_a_share_of_the_bases_score_and_what_is_won_back_a_share_of_ppos_loss():
    cost = {(c["task"], c["model"]): c for c in report.costs(report.pooled(rows()), "base")}
    assert cost["recall", "ppo"]["lost"] == pytest.approx(0.25)
    assert [cost["recall", "ppo"][k] for k in ("low", "high")] == pytest.approx(
        [(0.8 - 0.61) / 0.8, (0.8 - 0.59) / 0.8]
    )
    assert cost["recall", "ppo_ptx"]["won_back"] == pytest.approx(0.75)
    assert cost["documents", "ppo"]["lost"] == pytest.approx(0.25)  # a loss that rises is a loss
    assert cost["documents", "ppo_ptx"]["lost"] == pytest.approx(-0.05) and cost["documents", "ppo_ptx"][
        "won_back"
    ] == pytest.approx(1.2)
    assert cost["recall", "ppo"]["won_back"] is None


def test_nothing_is_won_back_of_a_loss_within_its_interval():
    models = {"base": {"t": score(0.8)}, "ppo": {"t": score(0.795)}, "ppo_ptx": {"t": score(0.9)}}
    assert all(c["won_back"] is None for c in report.costs(report.pooled(rows(models)), "base"))


def test_runs_of_one_size_are_pooled_and_ask_the_same_items():
    other = {"base": {"recall": score(0.6, half=0.03)}}
    found = report.pooled(rows(run="one") + rows(other, run="two") + rows(other, size=2e6, run="three"))[
        "recall"
    ]
    assert found[1e6]["base"]["mean"] == pytest.approx(0.7) and found[1e6]["base"]["n"] == 300
    assert found[1e6]["base"]["high"] == pytest.approx(0.7 + 0.02)  # errors of the same items do not cancel
    assert found[2e6]["base"]["mean"] == 0.6


def run(workdir, **fields):
    given = {"stage": "tax", "name": "tax", "seed": 0, "base": "base", "runs": {}, **fields}
    tax.run(ml_collections.ConfigDict(given), workdir)
    return json.loads((workdir / "tax.json").read_text())


def test_scores_are_found_wherever_a_run_leaves_them(tmp_path):
    auto = {m: {f"{t}/{shots}": v | {"also": {}} for t, v in tasks.items() for shots in ("zero-shot", "few-shot")}
            for m, tasks in MODELS.items()}  # fmt: skip
    auto["base"]["squad/zero-shot"] = {"metric": "", "mean": None, "low": None, "high": None, "n": 0}
    places = {"auto/summary.json": {"models": auto}, "lab/evaluate/evaluation.json": {"pretraining_tasks": MODELS, "kl": {}},
              "kept.json": {"pretraining_tasks": MODELS}}  # fmt: skip
    for name, content in places.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    for name in ("auto", "lab", "kept.json"):
        assert (
            tax.read_scores(tmp_path / name)["ppo"].keys()
            == (auto if name == "auto" else MODELS)["ppo"].keys()
        )
    runs = {
        "auto": {"path": str(tmp_path / "auto"), "size": 1.3e9},
        "larger": {
            "path": str(tmp_path / "kept.json"),
            "size": 6e9,
            "models": {"base": "base", "ppo": "ppo_ptx"},
        },
    }
    found = run(tmp_path / "out", runs=runs)
    assert {(r["run"], r["model"]) for r in found["scores"]} == {
        ("auto", "base"), ("auto", "ppo"), ("auto", "ppo_ptx"), ("larger", "base"), ("larger", "ppo_ptx"),
    }  # fmt: skip
    assert "squad/zero-shot" not in {r["task"] for r in found["scores"]}
    page = (tmp_path / "out" / "README.md").read_text()
    assert "(Fig. 28)" in page and "(Fig. 29)" in page
    for name in ("tax", "tasks_all", "tasks_few_shot"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5000


def setting(mean, **overrides):
    each = [mean - 0.05, mean, mean + 0.05]
    value = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 3, "each": each}
    overrides = {f"ppo.{name}": one for name, one in overrides.items()}
    return {"overrides": overrides, "trials": ["a"], "done": 3, "values": {"recall": value, "reward": value}}


def test_a_sweep_is_drawn_with_its_reference_and_says_what_is_missing(tmp_path):
    sweep = {
        "sweep": "ptx.py", "axes": ["ppo.ptx_coef"],
        "settings": [setting(0.3, ptx_coef=0.0), setting(0.5, ptx_coef=0.1), setting(0.9, ptx_coef=5.0)],
        "trials": 12,
        "metrics": {"recall": {"better": "max", "label": "recall"}, "reward": {"better": "max", "label": "reward"}},
        "references": {"recall": {"name": "base/recall", "mean": 0.95}}, "missing": [{"name": "x"}],
    }  # fmt: skip
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    (tmp_path / "kept.json").write_text(json.dumps({"pretraining_tasks": MODELS}))
    runs = {"one": {"path": str(tmp_path / "kept.json"), "size": 1e6}}
    run(
        tmp_path / "out", runs=runs, sweeps={"ptx": {"path": str(tmp_path), "title": "Coefficient (Fig. 33)"}}
    )
    page = (tmp_path / "out" / "README.md").read_text()
    assert "1 of 12 trials are missing" in page and "0.500 [0.400, 0.600]" in page
    assert (tmp_path / "out" / "sweep_ptx.png").stat().st_size > 5000
    with pytest.raises(InputError, match="'recal'.*did you mean recall"):
        run(
            tmp_path / "out",
            runs=runs,
            sweeps={"ptx": {"path": str(tmp_path), "title": "x", "metrics": ("recal",)}},
        )


def test_the_shipped_config_finds_all_that_it_names(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    tax.run(get_config(), tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert all(f"(Fig{number})" in page for number in (". 28", ". 33", "s. 34 and 36", ". 35"))


def test_the_curves_of_a_sweep_are_named_once_and_inside_the_picture():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    metrics = {name: {"better": "max", "label": name} for name in ("recall", "reward")}
    settings = [setting(0.5, kl_coef=kl, ptx_coef=ptx) for kl in (0.0, 0.1) for ptx in (0.0, 0.5)]
    data = {
        "axes": ["ppo.kl_coef", "ppo.ptx_coef"],
        "settings": settings,
        "metrics": metrics,
        "shown": [*metrics],
        "references": {},
    }
    chart = report.draw_sweep(data)
    (legend,) = [axes.get_legend() for axes in chart.axes if axes.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == ["ptx_coef = 0.0", "ptx_coef = 0.5"]
    box = legend.get_window_extent(FigureCanvasAgg(chart).get_renderer())
    assert 0 <= box.x0 and box.x1 <= chart.bbox.x1 and box.y1 <= chart.bbox.y1


@pytest.mark.parametrize("content, says", [
    ("{", "as JSON"), ("{}", "neither 'models' nor 'pretraining_tasks'"), ('{"models": {"base": {"t": {"mean": 1}}}}', "t: lacks metric"),
    ('{"models": {"bas": {"t": {"metric": "f1", "mean": 1, "low": 1, "high": 1, "n": 1}}}}',
     "did you mean bas"),
])  # fmt: skip
def test_a_file_without_scores_is_named_with_what_it_lacks(tmp_path, content, says):
    (tmp_path / "kept.json").write_text(content)
    with pytest.raises(InputError, match=says):
        run(tmp_path / "out", runs={"one": {"path": str(tmp_path / "kept.json"), "size": 1.0}})
    assert not (tmp_path / "out").exists()
