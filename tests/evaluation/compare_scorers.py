"""Our scorers against independent implementations, on generated answers: one command.

    PYTHONPATH=. python tests/evaluation/compare_scorers.py --cases 2000

Its Python has this project's dependencies and `pip install lm-eval sacrebleu rouge-score torchmetrics nltk`. DROP and TruthfulQA's MC2:
the code of lm-evaluation-harness. SQuAD: torchmetrics (it has no questions without an answer; those are compared with the definition).
QuAC: its rules for several references, written here over torchmetrics' F1 of two texts.
BLEU: nltk's corpus BLEU on sacreBLEU's tokens. ROUGE-L: the definition with nltk's stemmer. Entropy: scipy. Exit status 1 on a difference.
"""

import argparse
import itertools
import random
import re
import sys

import numpy as np

from instruct_jax.data.sources.benchmark_packages import answers_of
from instruct_jax.evaluation.scorers import choice, drop, quac, squad, texts

WORDS = 'the a an The cat Cat\'s cats running runs blue-green 3 3.0 three 1,000 12-yard U.S. é naïve $5 50% no. not (in) "all" -'.split()


def phrase(rng: random.Random, most: int, least: int = 0) -> str:
    """Words with stray spaces, marks and capitals between them."""
    words = rng.choices(WORDS, k=rng.randint(least, most))
    return "".join(word + rng.choice((" ", " ", " ", "  ", "-", ", ", ". ")) for word in words)[
        : None if least else rng.choice((None, 9))
    ]


def near(rng: random.Random, text: str, most: int) -> str:
    """A phrase, or a text with a word changed, dropped or added."""
    words = text.split()
    match rng.randrange(5):
        case 0:
            return text
        case 1 if words:
            words.pop(rng.randrange(len(words)))
        case 2:
            words.insert(rng.randint(0, len(words)), rng.choice(WORDS))
        case 3 if words:
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        case _:
            return phrase(rng, most)
    return " ".join(words)


def compare_drop(rng: random.Random) -> tuple:
    """A prediction against references of up to three spans."""
    from lm_eval.tasks.drop.utils import process_results

    golds = [tuple(phrase(rng, 4) for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(1, 4))]
    said = near(rng, rng.choice(rng.choice(golds)), 5)
    said = [said] if rng.random() < 0.7 else [said, near(rng, rng.choice(rng.choice(golds)), 4)]
    theirs = process_results({"answers": golds}, said)
    return drop.score(said, golds), (theirs["em"], theirs["f1"])


def compare_squad(rng: random.Random) -> tuple:
    """A prediction against up to four references with words in them."""
    from torchmetrics.functional.text.squad import _compute_exact_match_score, _compute_f1_score

    golds = [gold for gold in (phrase(rng, 6, 1) for _ in range(rng.randint(0, 4))) if squad.normalize(gold)]
    said = near(rng, rng.choice(golds or [""]), 6)
    if not golds:
        empty = float(not re.sub(r"\b(a|an|the)\b|[^\w]", "", re.sub(r"[^\w\s]", "", said.lower())))
        return (squad.exact_match(said, golds), squad.f1(said, golds)), (empty, empty)
    theirs = [
        max(float(rule(said, gold)) for gold in golds)
        for rule in (_compute_exact_match_score, _compute_f1_score)
    ]
    return (squad.exact_match(said, golds), squad.f1(said, golds)), tuple(theirs)


def compare_quac(rng: random.Random) -> tuple:
    """A prediction, or none, against the votes of up to five people: with each of them left out once, the best of the others."""
    from torchmetrics.functional.text.squad import _compute_f1_score

    none = "CANNOTANSWER"
    base = phrase(rng, 6, 1)
    given = [text for text in (near(rng, base, 6) for _ in range(6)) if squad.normalize(text)] or ["word"]
    votes = [none if rng.random() < 0.3 else rng.choice(given) for _ in range(rng.randint(1, 5))]
    said = rng.choice((None, rng.choice(given)))
    spans = [vote for vote in votes if vote != none]
    golds = [none] if votes.count(none) >= len(spans) else spans

    def alike(one, golds):
        return max(float(_compute_f1_score(one, gold)) for gold in golds)

    others = list(itertools.combinations(golds, max(len(golds) - 1, 1)))
    theirs = float(np.mean([alike(said or none, some) for some in others]))
    left = [golds[:i] + golds[i + 1 :] for i in range(len(golds))]
    human = float(np.mean([alike(gold, rest) for gold, rest in zip(golds, left)])) if len(golds) > 1 else 1.0
    mine = answers_of(votes)
    return (quac.agreement(mine), quac.f1(said, mine)), (human, theirs)


def compare_bleu(rng: random.Random) -> tuple:
    """Corpora of up to six sentences, one of them right, so that smoothing plays no part."""
    from nltk.translate.bleu_score import corpus_bleu
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    cut = Tokenizer13a()
    references = [phrase(rng, 25, 6) for _ in range(rng.randint(1, 6))]
    said = [near(rng, text, 20) for text in references]
    said[0] = references[0]
    # nltk counts an n-gram where a sentence is too short to have one
    said = [
        text if len(cut(text).split()) > 3 else other for text, other in zip(said, references, strict=True)
    ]
    mine = texts.bleu([texts.bleu_counts(*pair) for pair in zip(said, references, strict=True)])
    theirs = corpus_bleu([[cut(text).split()] for text in references], [cut(text).split() for text in said])
    return (mine,), (100 * theirs,)


def compare_rouge(rng: random.Random) -> tuple:
    """F of the longest common subsequence of stems; words of more than three letters are stemmed."""
    from nltk.stem.porter import PorterStemmer

    stem = PorterStemmer().stem

    def tokens(text):
        words = re.findall("[a-z0-9]+", text.lower())
        return [stem(word) if len(word) > 3 else word for word in words]

    reference = phrase(rng, 20)
    said = near(rng, reference, 20)
    one, other = tokens(said), tokens(reference)
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    shared = table[-1, -1]
    f1 = 2 * shared / (len(one) + len(other)) if shared else 0.0
    return (texts.rouge_l(said, reference),), (f1,)


def compare_choice(rng: random.Random) -> tuple:
    """Entropy, mass on true answers and the pick, of up to eight log-probabilities."""
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2
    from scipy.stats import entropy

    logprobs = [rng.uniform(-60, -1) for _ in range(rng.randint(2, 8))]
    labels = [int(rng.random() < 0.5) for _ in logprobs]
    theirs = process_results_mc2({"mc2_targets": {"labels": labels}}, [(x, False) for x in logprobs])["acc"]
    probs = np.exp(np.array(logprobs) - max(logprobs))
    picked = sorted(range(len(logprobs)), key=lambda i: (-logprobs[i], i))[0]
    mine = choice.choose(logprobs), choice.true_mass(logprobs, labels), choice.entropy_bits(logprobs)
    return mine, (picked, theirs, entropy(probs / probs.sum(), base=2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    cases, failed = parser.parse_args().cases, 0
    for compare in (compare_drop, compare_squad, compare_quac, compare_bleu, compare_rouge, compare_choice):
        worst, between = 0.0, 0
        for case in range(cases):
            mine, theirs = compare(random.Random(f"{compare.__name__} {case}"))
            gap = float(np.max(np.abs(np.array(mine) - np.array(theirs))))
            between += 0 < theirs[-1] < (100 if compare is compare_bleu else 1)
            if gap > worst:
                worst = gap
                if gap > 1e-6:
                    print(f"{compare.__name__}, case {case}: ours {mine}, theirs {theirs}")
        failed |= worst > 1e-6
        print(
            f"{compare.__name__.removeprefix('compare_')}: {cases} cases, {between} of them neither 0 nor 1, largest difference {worst:.1e}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
