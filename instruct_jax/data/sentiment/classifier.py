"""Home of the sentiment classifier: how probably people would call a text positive, from its words and pairs of words.

Ziegler et al. (2019) used a classifier on Amazon reviews for their mock sentiment task; here it is TF-IDF and logistic regression on
ratings of movie reviews, fitted in seconds.
"""

from collections.abc import Callable, Sequence

import numpy as np

from instruct_jax.data.sentiment.snippets import Snippet
from instruct_jax.errors import InputError

CLEAR = 0.5  # ratings nearer to 0 than this are called neither positive nor negative
STRENGTH = 10.0  # the inverse of the penalty on weights, chosen on validation sentences

Judge = Callable[[Sequence[str]], np.ndarray]


def fit(snippets: Sequence[Snippet]) -> Judge:
    """judge(texts) → f64[n], the probability that each is positive; equal for equal snippets.

    InputError where scikit-learn is not installed or the snippets are not of both kinds.
    """
    linear, text = _sklearn()
    clear = [s for s in snippets if abs(s.rating) >= CLEAR]
    labels = [s.rating > 0 for s in clear]
    if len(set(labels)) < 2:
        raise InputError(f"{len(clear)} clearly rated sentences, all of one kind: a judge needs both")
    vectorizer = text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = linear.LogisticRegression(C=STRENGTH, max_iter=1000)
    model.fit(vectorizer.fit_transform([s.text for s in clear]), labels)
    return lambda texts: model.predict_proba(vectorizer.transform(texts))[:, 1]


def auc(judge: Judge, snippets: Sequence[Snippet]) -> dict:
    """{mean, n}: how often the judge puts a positive sentence above a negative one, over clearly rated snippets."""
    clear = [s for s in snippets if abs(s.rating) >= CLEAR]
    scores, positive = judge([s.text for s in clear]), np.array([s.rating > 0 for s in clear])
    above = scores[positive][:, None] - scores[~positive][None]
    return {"mean": float(((np.sign(above) + 1) / 2).mean()), "n": len(clear)}


def _sklearn():
    try:
        from sklearn import linear_model
        from sklearn.feature_extraction import text
    except ImportError as error:
        raise InputError(
            "the sentiment judges need scikit-learn: .venv/bin/pip install -r requirements-real.txt"
        ) from error
    return linear_model, text
