"""The report: what stands on the page, what in summary.json, and that a browser shows it whole."""

import json
import os
import re
import shutil
import subprocess
from html import unescape

import pytest

from instruct_jax.errors import InputError
from instruct_jax.reports.page import write_report
from instruct_jax.reports.text import count, duration, number, percent

MODELS = ["base", "prompted", "flan", "sft", "ppo", "ppo_ptx"]
REQUIRED = ("seed", "wall_seconds", "peak_rss_bytes", "matmul_gflops", "versions")
NUMBER = re.compile(r"(?<![\w.])\d+(?:\u202f\d{3})*(?:\.\d+)*")
ATTACK = '<script>alert("x")</script> & <b>bold</b>'


def about(mean, half, n, **more):
    high = min(mean + half, 1.0) if mean < 1 else mean + half
    return {"mean": mean, "low": max(mean - half, 0.0), "high": high, "n": n} | more


def example() -> dict:
    """Made-up numbers of a plausible full study, every key that page.py documents."""

    def rate(mean, ties=131, n=402):
        half = 0.47 / n**0.5 * 1.9
        decided = n - ties
        won = (mean * n - ties / 2) / decided
        untied = {f"non_tie_{key}": value for key, value in about(won, 1.2 * half, decided).items()}
        return about(mean, half, n, ties=ties, **untied, prompts=(n + 1) // 2)

    wins = dict(zip(MODELS, [0.118, 0.243, 0.312, 0.497, 0.688, 0.713], strict=True))
    ties = dict(zip(MODELS, [37, 77, 93, 211, 121, 117], strict=True))
    use_cases = {"generation": 184, "open_qa": 50, "brainstorming": 44, "chat": 34, "rewrite": 26}
    use_cases |= {"summarization": 18, "classification": 14, "other": 14, "closed_qa": 10, "extract": 8}
    kl = [0.0, 1.9, 4.2, 7.1, 9.8, 12.6, 16.3]
    curve = [0.0, 0.42, 0.71, 0.86, 0.93, 0.94, 0.90]

    def points(stretch, gold, rm):
        return [
            {
                "episodes": 512 * i,
                "kl": kl[i] * stretch,
                "gold": about(4.36 + gold * curve[i], 0.11, 203),
                "rm": about(0.08 + rm * i**0.6, 0.09, 203),
            }
            for i in range(7)
        ]

    def tasks(recall, reading, loss):
        better = {"higher_is_better": True}
        return {
            "fact recall": about(recall, 0.033, 307, items=307, metric="exact match", **better),
            "reading": about(reading, 0.041, 253, items=253, metric="F1", **better),
            "held-out text": about(
                loss, 0.018, 24117, items=97, metric="nats a token", higher_is_better=False
            ),
        }

    def response(model, text, likert, **more):
        flags = dict.fromkeys(("fails_task", "inappropriate", "hallucination"), False)
        flags |= {"satisfies_constraint": True} | more.pop("flags", {})
        facts = {"closed_domain": False, "has_constraint": True, "finished": True} | more
        return {"model": model, "response": text, "likert": likert, "flags": flags} | facts

    return {
        "seed": 3,
        "wall_seconds": 1387.4,
        "peak_rss_bytes": 2_413_000_000,
        "matmul_gflops": 118.4,
        "versions": {"python": "3.11.9", "jax": "0.10.2", "instruct_jax": "0.1.0"},
        "win_rate_vs_sft": {model: rate(wins[model], ties[model]) for model in MODELS},
        "win_rate_by_use_case": {
            name: {m: rate(min(0.93, wins[m] + 0.02 * (i % 4 - 1)), n // 4, n) for m in MODELS}
            for i, (name, n) in enumerate(use_cases.items())
        },
        "likert": {m: about(v, 0.13, 402) for m, v in zip(MODELS, [2.31, 3.12, 3.46, 4.36, 5.17, 5.22], strict=True)},
        "flags": {
            m: {
                "attempts_task": about(a, 0.03, 402),
                "satisfies_constraint": about(c, 0.07, 126),
                "hallucination": about(h, 0.08, 54),
                "appropriate": about(p, 0.02, 402),
            }
            for m, a, c, h, p in zip(
                MODELS,
                [0.41, 0.62, 0.74, 0.87, 0.93, 0.94],
                [0.22, 0.31, 0.38, 0.58, 0.71, 0.73],
                [0.47, 0.42, 0.37, 0.28, 0.17, 0.15],
                [0.81, 0.84, 0.86, 0.91, 0.93, 0.94],
                strict=True,
            )
        },
        "lengths": {m: about(17.3 + i, 0.8, 402, median=15.0, p90=29.0, finished=0.97) for i, m in enumerate(MODELS)},
        "rm_accuracy": {
            "training_labelers": about(0.714, 0.011, 6120, ties=1380),
            "heldout_labelers": about(0.706, 0.013, 4870, ties=1013),
        },
        "rm_ceiling": {
            "training_labelers": about(0.779, 0.009, 6120, ties=1380),
            "heldout_labelers": about(0.772, 0.011, 4870, ties=1013),
        },
        "labeler_agreement": about(0.731, 0.012, 5230, ties=2270),
        "rm_by_use_case": {name: about(0.69 + 0.005 * i, 0.03, 31 * n, ties=7 * n) for i, (name, n) in enumerate(use_cases.items())},
        "rm_calibration": [
            {"gap": gap, "predicted": 0.5 + 0.2 * gap**0.7, **about(0.52 + 0.17 * gap**0.7, 0.02, 1020)}
            for gap in (0.1, 0.3, 0.6, 0.95, 1.4, 2.1)
        ],
        "kl": {"ppo": 16.3, "ppo_ptx": 13.04},
        "kl_curve": {"ppo": points(1.0, 0.88, 0.72), "ppo_ptx": points(0.8, 0.91, 0.66)},
        "pretraining_tasks": {
            "base": tasks(0.942, 0.713, 1.402),
            "sft": tasks(0.871, 0.683, 1.533),
            "ppo": tasks(0.611, 0.577, 1.871),
            "ppo_ptx": tasks(0.853, 0.664, 1.447),
        },
        "samples": [
            {
                "prompt_id": "p1",
                "use_case": "closed_qa",
                "prompt": "Read this page and answer in at most six words.\nThe mill of Ardenne stands by the river Lume. "
                "It was built by Tovi the mason.\nWho built the mill?",
                "responses": [
                    response("base", "The mill of Ardenne was built by the miller. The river Lume", 2, finished=False,
                             closed_domain=True, flags={"hallucination": True, "satisfies_constraint": False}),
                    response("sft", "It was built by Tovi, who lives in Ardenne.", 4, closed_domain=True,
                             flags={"satisfies_constraint": False}),
                    response("ppo", "Tovi the mason.", 7, closed_domain=True),
                    response("ppo_ptx", "Tovi the mason built it.", 7, closed_domain=True),
                ],
            },
            {
                "prompt_id": "p2",
                "use_case": "generation",
                "prompt": ATTACK,
                "responses": [
                    response("sft", ATTACK, 3, has_constraint=False, flags={"fails_task": True}),
                    response("ppo_ptx", "  ", 1, has_constraint=False, flags={"inappropriate": True}),
                ],
            },
        ],
        "data_card": [
            {
                "title": "Prompts by data set (Table 6)",
                "columns": ["Set", "train", "valid", "test"],
                "rows": [["SFT", 1273, 165, None], ["Reward model", 3321, 179, None], ["PPO", 3114, 162, 201]],
            },
            {
                "title": "Prompt lengths in tokens (Table 9)",
                "columns": ["Set", "n", "mean", "std", "min", "median", "max"],
                "rows": [["SFT train", 1273, 24.8, 13.3, 4, 22, 71], ["RM train", 3321, 23.9, 12.7, 4, 21, 73]],
            },
        ],
        "stages": [
            {"name": name, "seconds": seconds}
            for name, seconds in [
                ("lab data", 21.4), ("pretraining", 402.2), ("SFT", 118.9), ("PPO-init", 41.6), ("comparisons", 76.3),
                ("reward model", 183.7), ("selection", 38.8), ("PPO", 201.5), ("PPO-ptx", 242.6), ("evaluation", 60.4),
            ]
        ],
        "config": {"ppo": {"kl_coef": 0.02, "ptx_coef": 27.8, "clip": 0.2}, "model": {"layers": 4, "width": 128}},
    }  # fmt: skip


def quickstart() -> dict:
    """The same with the sections that a short run has."""
    data = example()
    for key in (
        "kl_curve",
        "rm_calibration",
        "rm_by_use_case",
        "samples",
        "data_card",
        "stages",
        "config",
        "win_rate_by_use_case",
    ):
        del data[key]
    for key in ("win_rate_vs_sft", "likert", "flags", "lengths", "pretraining_tasks"):
        data[key] = {model: data[key][model] for model in ("base", "sft", "ppo_ptx")}
    data["kl"] = {"ppo_ptx": 13.04}
    return data


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "report"
    write_report(path, example())
    return path


@pytest.fixture(scope="module")
def short_report(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "report"
    write_report(path, quickstart())
    return path


def page_of(path) -> str:
    return (path / "index.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a person reads: no style sheet, no tags, no attributes."""
    return unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S)))


def intervals_in(data):
    """Every {mean, low, high, n} of the data."""
    if isinstance(data, dict) and {"mean", "n"} <= set(data):
        yield data
    for item in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from intervals_in(item)


def test_summary_holds_the_documented_keys_unchanged(report, short_report):
    data, summary = example(), json.loads((report / "summary.json").read_text())
    keys = "wall_seconds peak_rss_bytes matmul_gflops win_rate_vs_sft rm_accuracy rm_ceiling labeler_agreement kl likert"
    assert set(summary) == {*keys.split(), "flags", "pretraining_tasks", "versions", "seed"}
    assert all(summary[key] == data[key] for key in summary)
    assert list(json.loads((short_report / "summary.json").read_text())["win_rate_vs_sft"]) == [
        "base",
        "sft",
        "ppo_ptx",
    ]


def test_every_measured_mean_stands_in_a_row_with_its_n(report):
    data = example()
    for key in ("kl_curve", "rm_calibration"):  # read off the plots
        del data[key]
    rows = [text_of(row).split("  ") for row in re.findall(r"<tr>.*?</tr>", page_of(report), flags=re.S)]
    found = list(intervals_in(data))
    found += [{"mean": v["non_tie_mean"], "n": v["non_tie_n"]} for v in data["win_rate_vs_sft"].values()]
    assert len(found) > 100
    for value in found:
        means = {percent(value["mean"]), *(number(value["mean"], digits) for digits in (1, 2, 3))}
        cells = ({cell.split(" [")[0].strip() for cell in row} for row in rows)
        assert any(means & row and count(value["n"]) in row for row in cells), value


@pytest.mark.parametrize("make", [example, quickstart])
def test_every_number_on_the_page_comes_from_the_data(make, tmp_path):
    data = make()
    write_report(tmp_path, data)
    allowed = {"95"}  # the level of all intervals

    def allow(value):
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                allow(item)
        elif isinstance(value, str):
            allowed.update(NUMBER.findall(value))
        elif isinstance(value, float):
            written = [percent(value), str(value), *(number(value, digits) for digits in (1, 2, 3))]
            allowed.update(text.strip("\u2212\u202f%") for text in written)
        else:
            allowed.update((count(value), str(value)) if value is not None else ())

    bins, stages = data.get("rm_calibration", []), data.get("stages", [])
    total = duration(sum(stage["seconds"] for stage in stages))
    derived = [sum(row["n"] for row in bins), len(bins), len(stages), total, duration(data["wall_seconds"])]
    allow([data, *derived, data["peak_rss_bytes"] / 2**30, number(data["matmul_gflops"], 0)])
    numbers = NUMBER.findall(text_of(page_of(tmp_path)))
    assert len(numbers) > 80
    assert set(numbers) - allowed == set()


def test_captions_state_n(report):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page_of(report), flags=re.S)
    assert len(captions) == 10
    for caption in captions:
        assert re.search(r"\bn\b[^.]*\d|in 10 stages", caption), caption


def test_text_of_models_and_users_is_escaped(report):
    page = page_of(report)
    assert "<script" not in page and "<b>bold" not in page
    assert page.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; &lt;b&gt;") == 2


def test_the_page_needs_nothing_but_the_plots_beside_it(report):
    page = page_of(report)
    assert not re.search(r"https?://|@import|url\(", page)
    images = re.findall(r'<img src="([^"]+)"', page)
    assert sorted(images) == sorted(path.name for path in report.glob("*.png"))
    assert all((report / name).read_bytes().startswith(b"\x89PNG") for name in images)


def test_sections_without_data_vanish(short_report, tmp_path):
    page = page_of(short_report)
    for gone in ("By use case", "Side by side", "Data card", "Configuration", "Stage times", "against KL"):
        assert gone not in page
    assert "Preference against SFT" in page
    write_report(tmp_path, {key: example()[key] for key in REQUIRED})
    assert (
        "<img" not in page_of(tmp_path)
        and "<table" not in page_of(tmp_path)
        and "The run" in page_of(tmp_path)
    )


def test_an_interval_without_bounds_and_a_rate_of_ties_only_are_shown(tmp_path):
    data = quickstart()
    nothing = {"non_tie_mean": None, "non_tie_low": None, "non_tie_high": None, "non_tie_n": 0}
    lone = {"mean": 0.5, "low": float("nan"), "high": None, "n": 7, "ties": 7, "prompts": 1} | nothing
    data["win_rate_vs_sft"] = {"ppo_ptx": lone}
    data["rm_accuracy"] = {"heldout_labelers": {"mean": 0.5, "low": None, "high": None, "n": 9, "ties": 0}}
    data["labeler_agreement"] = {"mean": 0.7, "low": None, "high": None, "n": 9, "ties": 0}
    write_report(tmp_path, data)
    assert "no interval, n = 7" in page_of(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["win_rate_vs_sft"]["ppo_ptx"]["low"] is None


def test_plots_of_one_model_and_of_models_never_heard_of_are_drawn(tmp_path):
    data = example()
    for key in ("win_rate_vs_sft", "likert", "flags", "lengths"):
        data[key] = {"dpo_new": data[key]["ppo_ptx"]}
    data["kl_curve"] = {"dpo_new": data["kl_curve"]["ppo"][:1]}
    data["rm_calibration"] = data["rm_calibration"][:1]
    write_report(tmp_path, data)
    assert "dpo new" in page_of(tmp_path) and (tmp_path / "kl_gold.png").exists()


def test_writing_again_replaces_and_leaves_no_temporary_file(tmp_path):
    write_report(tmp_path, quickstart())
    data = quickstart()
    data["seed"] = 71
    write_report(tmp_path, data)
    assert "Seed 71" in page_of(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_bad_data_is_named():
    with pytest.raises(InputError, match=r"'likerts'; did you mean 'likert'"):
        write_report("never", example() | {"likerts": {}})
    data = example()
    del data["seed"]
    with pytest.raises(InputError, match="lacks seed"):
        write_report("never", data)


_FRAME = """<!doctype html><body><iframe src="{page}" style="width:{width}px;height:900px;border:0"></iframe>
<script>onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const images = [...page.images].filter(image => !image.naturalWidth).length;
  document.body.dataset.result = [root.clientWidth, root.scrollWidth, images, page.images.length].join(" ");
}}</script>"""


_FLAGS = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync "
    "disable-component-update hide-scrollbars allow-file-access-from-files enable-logging=stderr dump-dom "
    "window-size=1400,1000"
)


def _browser():
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
    )
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("no chromium or chrome on the path; .ci/run installs it")
    if found is None:
        pytest.skip("no chromium or chrome on the path")
    return found


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_the_page_whole_and_without_errors(report, tmp_path, width):
    # an iframe, because a headless window is never narrower than 500 pixels
    (tmp_path / "frame.html").write_text(_FRAME.format(page=(report / "index.html").as_uri(), width=width))
    command = [
        _browser(),
        *(f"--{flag}" for flag in _FLAGS.split()),
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command.append((tmp_path / "frame.html").as_uri())
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = re.search(r'data-result="([^"]+)"', run.stdout)
    assert result, run.stdout[:2000] + run.stderr[-2000:]
    shown, needed, broken, images = map(int, result[1].split())
    assert (shown, broken, images) == (width, 0, 10)
    assert needed <= shown
    assert [line for line in run.stderr.splitlines() if "CONSOLE" in line] == []
