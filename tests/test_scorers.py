"""The benchmarks' scorers by hand-worked cases and against plain rewritings; the libraries' and the harness's own code is compared with
in tests/evaluation/compare_scorers.py."""

import http.client
import io
import itertools
import json
import math
import random
import statistics
import sys
import urllib.error

import pytest

from instruct_jax.errors import InputError
from instruct_jax.evaluation.scorers import choice, drop, squad, texts, toxicity


@pytest.mark.parametrize(
    "said, references, exact, f1",
    [
        ("The 12 yards.", [("12 yards",)], 1.0, 1.0),
        ("12.0", [("12",)], 1.0, 1.0),  # numbers are compared as numbers
        ("13 yards", [("12 yards",)], 0.0, 0.0),  # no number in common: the words do not count
        ("forty-two", [("forty two",)], 1.0, 1.0),  # a hyphen separates words
        ("red", [("red", "blue")], 0.0, 0.5),  # one span of two
        ("the red house", [("red house", "x"), ("red",)], 0.0, 0.67),  # best of the references, two digits
        ("", [("red",)], 0.0, 0.0),
        ("red", [("",), ("blue",)], 0.0, 0.0),  # a reference that begins empty says nothing
        ("anything", [("",)], 0.0, 0.0),
    ],
)
def test_drop_scores_as_worked_by_hand(said, references, exact, f1):
    assert drop.score(said, references) == (exact, f1)


def test_drop_matches_several_spans_one_to_one_as_well_as_can_be():
    words = ["red", "blue", "green", "old red", "blue 3", "4"]
    rng = random.Random(0)
    for _ in range(200):
        mine, theirs = (rng.choices(words, k=rng.randint(1, 3)) for _ in range(2))
        alone = {(m, t): drop.score(m, [(t,)])[1] for m in mine for t in theirs}
        many, few = (mine, theirs) if len(mine) > len(theirs) else (theirs, mine)
        pairs = [list(zip(order, few)) for order in itertools.permutations(many, len(few))]
        best = max(sum(alone[pair[::-1] if many is theirs else pair] for pair in some) for some in pairs)
        assert drop.score(mine, [theirs])[1] == pytest.approx(best / len(many), abs=0.0101)


@pytest.mark.parametrize(
    "said, references, exact, f1",
    [
        ("The cat!", ["a cat"], 1.0, 1.0),
        ("black cat sat", ["cat", "the black cat"], 0.0, 0.8),
        ("cat cat", ["cat"], 0.0, 2 / 3),  # words count as often as they occur
        ("cat cat", ["cat cat dog"], 0.0, 0.8),
        ("", [], 1.0, 1.0),
        ("cat", [], 0.0, 0.0),
        ("the", [], 1.0, 1.0),  # nothing is left of it
        ("cat", ["the", "cat"], 1.0, 1.0),
        ("dog", ["the"], 0.0, 0.0),
        ("the", ["the", "cat"], 0.0, 0.0),  # a reference of which nothing is left does not count
    ],
)
def test_squad_scores_as_worked_by_hand(said, references, exact, f1):
    assert squad.exact_match(said, references) == exact
    assert squad.f1(said, references) == pytest.approx(f1)


def test_the_mass_on_true_answers_is_their_share_of_all_probability():
    logprobs = [math.log(0.1), math.log(0.2), math.log(0.1)]
    assert choice.true_mass(logprobs, [True, False, True]) == pytest.approx(0.5)
    assert choice.true_mass([x - 900 for x in logprobs], [0, 1, 0]) == pytest.approx(0.5)


def test_an_entropy_is_that_of_total_probabilities_not_of_means():
    assert choice.entropy_bits([math.log(0.3), math.log(0.1)]) == pytest.approx(
        -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    )


@pytest.mark.parametrize(
    "library, call",
    [
        ("sacrebleu.metrics", lambda: texts.bleu_counts("a", "a")),
        ("rouge_score.rouge_scorer", lambda: texts.rouge_l("a", "a")),
        ("profanity_check", lambda: toxicity.local(["a"])),
    ],
)
def test_a_scorer_whose_library_is_missing_says_how_to_get_it(library, call, monkeypatch):
    for cached in (texts.rouge_scorer, texts.bleu_metric, toxicity._local):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match="pip install"):
        call()


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence_of_stems():
    pytest.importorskip("rouge_score")
    # cat sat on mat of "the cats sat on the mat": 5 of 6, 5 of 5
    assert texts.rouge_l("the cat sat on mat", "the cats sat on the mat") == pytest.approx(10 / 11)


def test_bleu_of_a_corpus_is_that_of_its_sentences_counts_put_together():
    sacrebleu = pytest.importorskip("sacrebleu")
    said = ["the cat is on a mat", "he reads the old book slowly today", "no"]
    references = ["the cat is on the mat", "he slowly reads the old book today", "yes, of course"]
    counts = [texts.bleu_counts(*pair) for pair in zip(said, references, strict=True)]
    assert texts.bleu(counts) == pytest.approx(sacrebleu.corpus_bleu(said, [references]).score)
    found = texts.bleu_interval(counts, samples=50)
    assert found["n"] == 3 and found["low"] <= found["mean"] <= found["high"]
    assert texts.bleu_interval(counts[:1])["low"] is None


def test_the_interval_of_bleu_is_as_wide_as_other_draws_of_the_corpus_differ():
    pytest.importorskip("sacrebleu")
    words = "the cat sat on a red mat and saw an old dog run home at night".split()

    def sentence(rng):
        gold = rng.choices(words, k=12)
        said = [word if rng.random() < 0.8 else rng.choice(words) for word in gold]
        return texts.bleu_counts(" ".join(said), " ".join(gold))

    drawn = [[sentence(random.Random(f"{corpus} {i}")) for i in range(30)] for corpus in range(40)]
    spread = statistics.stdev(map(texts.bleu, drawn))
    reach = [
        found["high"] - found["low"] for found in (texts.bleu_interval(one, samples=200) for one in drawn[:5])
    ]
    assert statistics.mean(reach) == pytest.approx(2 * 1.96 * spread, rel=0.3)


class Reply(io.BytesIO):
    """What urlopen returns: Perspective's answer of a score, or something else."""

    def __init__(self, score=None, body=None):
        super().__init__(
            body or b'{"attributeScores": {"TOXICITY": {"summaryScore": {"value": %f}}}}' % score
        )


class Cut(Reply):
    """An answer whose connection is dropped while it is read."""

    def read(self, *_):
        raise http.client.IncompleteRead(b"")


def refusal(code, said=b""):
    return urllib.error.HTTPError("https://where?key=secret", code, "no", {}, io.BytesIO(said))


@pytest.fixture
def perspective(monkeypatch):
    """Stands in for the API: gives or raises the replies of the list in turn, a score of 0.25 after them; keeps what was asked."""

    class Api:
        replies, asked = [], []

    def urlopen(request, timeout):
        Api.asked.append(json.loads(request.data)["comment"]["text"])
        reply = Api.replies.pop(0) if Api.replies else Reply(0.25)
        if isinstance(reply, Exception):
            raise reply
        return reply

    Api.asked, Api.replies = [], []
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return Api


TROUBLES = [
    (lambda: refusal(429), "429"), (lambda: refusal(503), "503"), (lambda: urllib.error.URLError("no route"), "no route"),
    (lambda: TimeoutError("timed out"), "timed out"), (lambda: http.client.RemoteDisconnected("closed"), "closed"),
    (lambda: ConnectionResetError(), "ConnectionResetError"), (lambda: Cut(0.5), "IncompleteRead"),
    (lambda: Reply(body=b"<html>"), "without a score"), (lambda: Reply(body=b"\xff"), "without a score"),
    (lambda: Reply(body=b'{"attributeScores": {}}'), "without a score"), (lambda: Reply(body=b"[]"), "without a score"),
]  # fmt: skip


@pytest.mark.parametrize("trouble, words", TROUBLES)
def test_perspective_is_asked_again_after_trouble_and_says_so_once_when_it_lasts(
    perspective, tmp_path, trouble, words
):
    classify = toxicity.perspective("secret", tmp_path / "kept.jsonl", pause=0, tries=3)
    perspective.replies = [trouble()]
    assert classify(["rude words", " "]) == [0.25, 0.0]  # nothing is not asked
    assert perspective.asked == ["rude words"] * 2
    perspective.replies = [trouble() for _ in range(3)]
    with pytest.raises(InputError, match=f"Perspective API.*{words}") as error:
        classify(["other"])
    assert perspective.asked[2:] == ["other"] * 3 and "secret" not in str(error.value)


def test_a_score_of_perspective_is_asked_once_also_of_a_stopped_run(perspective, tmp_path):
    path = tmp_path / "answers" / "kept.jsonl"
    perspective.replies = [Reply(0.5), refusal(400)]
    with pytest.raises(InputError, match="400"):
        toxicity.perspective("key", path, pause=0)(["a", "b", "c"])
    assert toxicity.perspective("key", path, pause=0)(["a", "b", "c", "a"]) == [0.5, 0.25, 0.25, 0.5]
    assert perspective.asked == ["a", "b", "b", "c"]
    assert toxicity.perspective("key", path, pause=0, writes=False)(["c", "a"]) == [0.25, 0.5]
    assert len(perspective.asked) == 4


def test_what_perspective_says_when_it_refuses_is_the_error(perspective, tmp_path):
    perspective.replies = [refusal(400, b"API key not valid")]
    with pytest.raises(InputError, match="400.*API key not valid"):
        toxicity.perspective("wrong", tmp_path / "kept.jsonl", pause=0)(["text"])
    assert len(perspective.asked) == 1
