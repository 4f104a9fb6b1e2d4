"""A GPT written a second time, in numpy and float64, token by token as the papers say: what the tests compare with."""

import numpy as np


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def logits(params, tokens, segments, config):
    """[B, T, vocab] of a policy's parameters; rows may hold several segments, 0 is padding."""
    states = np.stack([_row(params, t, s, config) for t, s in zip(np.asarray(tokens), np.asarray(segments))])
    return states @ np.asarray(params["embed"]["tokens"], np.float64)[: config.vocab].T


def logprobs(params, tokens, segments, config):
    """[B, T - 1] of every token given those before it."""
    rows = log_softmax(logits(params, tokens, segments, config))[:, :-1]
    return np.take_along_axis(rows, np.asarray(tokens)[:, 1:, None], axis=-1)[..., 0]


def _row(params, tokens, segments, config):
    """One row, document by document; padding keeps the state 0."""
    states = np.zeros((len(tokens), config.width))
    for segment in set(segments.tolist()) - {0}:
        where = np.flatnonzero(segments == segment)
        states[where] = _document(params, tokens[where], config)
    return states


def _document(params, tokens, config):
    p = _float64(params)
    x = p["embed"]["tokens"][tokens] + p["embed"]["positions"][: len(tokens)]
    for n in range(config.layers):
        layer = _index(p["layers"], n)
        y = _norm(x, layer["attention_norm"])
        q, k, v = (y @ layer[name]["kernel"] + layer[name]["bias"] for name in ("q", "k", "v"))
        mixed = np.zeros_like(x)
        for h in range(config.heads):
            cut = slice(h * config.head_dim, (h + 1) * config.head_dim)
            for t in range(len(tokens)):
                scores = k[: t + 1, cut] @ q[t, cut] / np.sqrt(config.head_dim)
                mixed[t, cut] = np.exp(log_softmax(scores)) @ v[: t + 1, cut]
        x = x + mixed @ layer["out"]["kernel"] + layer["out"]["bias"]
        y = _norm(x, layer["mlp_norm"]) @ layer["up"]["kernel"] + layer["up"]["bias"]
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + y @ layer["down"]["kernel"] + layer["down"]["bias"]
    return _norm(x, p["norm"])


def _norm(x, params):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * params[
        "scale"
    ] + params["bias"]


def _float64(tree):
    return (
        {k: _float64(v) for k, v in tree.items()} if hasattr(tree, "items") else np.asarray(tree, np.float64)
    )


def _index(tree, n):
    return {k: _index(v, n) for k, v in tree.items()} if hasattr(tree, "items") else tree[n]
