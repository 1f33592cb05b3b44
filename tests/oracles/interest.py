"""Histories with regard to a candidate, in NumPy loops over one row."""

import numpy as np


def mlp(vector, layers):
    for i, (kernel, bias) in enumerate(layers):
        vector = vector @ kernel + bias
        if i < len(layers) - 1:
            vector = np.maximum(vector, 0)
    return vector


def attention(history, candidate, mask, layers, softmax, weights=None):
    """`history` `(l, d)`, `candidate` `(c,)`; positions whose mask is False are left out.

    With `weights` `(l,)` each value counts so often, those of weight 0 not at all.
    """
    given = np.ones(len(history)) if weights is None else np.asarray(weights, "float64")
    inside = [place for place, own in enumerate(mask) if own and given[place] != 0]
    size, kept = len(candidate), [history[place] for place in inside]
    own_weights = [given[place] for place in inside]
    scores = []
    for one in kept:
        own = one[:size]
        seen = np.concatenate([one, candidate, own - candidate, own * candidate])
        scores.append(mlp(seen, layers)[0])
    if softmax and kept:
        raised = [np.exp(score - max(scores)) for score in scores]
        total = sum(abs(w) * one for w, one in zip(own_weights, raised, strict=True))
        scores = [one / total for one in raised]
    pooled = np.zeros(history.shape[1])
    for weight, score, one in zip(own_weights, scores, kept, strict=True):
        pooled = pooled + weight * score * one
    return pooled


def norm(vector, weights):
    gamma, beta = weights
    return gamma * (vector - vector.mean()) / np.sqrt(vector.var() + 1e-6) + beta


def transformer(history, candidate, mask, positions, blocks):
    """`positions` `(l + 1, d)`; `blocks` a list of dicts of arrays, see `attend`."""
    last = max(place for place, inside in enumerate(mask) if inside)
    tokens = []
    for place, inside in enumerate(mask):
        if inside:
            tokens.append(history[place] + positions[last + 1 - place])
    padded = np.concatenate([candidate, np.zeros(history.shape[1] - len(candidate))])
    tokens.append(padded + positions[0])
    for block in blocks:
        tokens = [attend(token, tokens, block) for token in tokens]
    return tokens[-1]


def attend(token, tokens, block):
    """One token of a block: attention in heads, feed-forward part, each added and normed."""
    total = block["output_bias"]
    for head in range(block["query"].shape[1]):
        query = token @ block["query"][:, head] + block["query_bias"][head]
        keys = [one @ block["key"][:, head] + block["key_bias"][head] for one in tokens]
        values = [one @ block["value"][:, head] + block["value_bias"][head] for one in tokens]
        scores = np.array([query @ key / np.sqrt(len(query)) for key in keys])
        shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        seen = sum(share * value for share, value in zip(shares, values, strict=True))
        total = total + seen @ block["output"][head]
    token = norm(token + total, block["norm_0"])
    return norm(token + mlp(token, block["layers"]), block["norm_1"])
