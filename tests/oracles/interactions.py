"""Interactions of columns, in NumPy loops."""

import numpy as np


def fm(columns, vector):
    """Of one row `(c, d)`."""
    total = np.zeros(columns.shape[1])
    for i in range(len(columns)):
        for j in range(i + 1, len(columns)):
            total += columns[i] * columns[j]
    return total if vector else np.array([total.sum()])


def relu(x):
    return np.maximum(x, 0)


def fibinet(columns, squeeze, excite, kernels, kind):
    weights = relu(relu(columns.mean(axis=1) @ squeeze) @ excite)
    made = []
    for vectors, kernel in zip((columns, columns * weights[:, None]), kernels, strict=True):
        pair = 0
        for i in range(len(vectors)):
            for j in range(i + 1, len(vectors)):
                own = kernel[{"all": 0, "each": i, "interaction": pair}[kind]]
                made.append((vectors[i] @ own) * vectors[j])
                pair += 1
    return np.concatenate(made)


def auto_int(columns, layers, num_heads):
    """`layers` has for each a dict of query, key, value and residual `(d, h * k)`."""
    for own in layers:
        size = own["query"].shape[1] // num_heads
        heads = []
        for h in range(num_heads):
            part = slice(h * size, (h + 1) * size)
            query, key, value = (columns @ own[n][:, part] for n in ("query", "key", "value"))
            scores = np.exp(query @ key.T)
            heads.append(scores / scores.sum(axis=1, keepdims=True) @ value)
        columns = relu(np.concatenate(heads, axis=1) + columns @ own["residual"])
    return columns.ravel()


def normed(x, epsilon):
    return (x - x.mean()) / np.sqrt(x.var() + epsilon)


def mask_net(row, sizes, masks, kernels):
    """`masks` has for each block (W1, b1, W2, b2)."""
    ends = np.cumsum(sizes)
    parts = [row[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    hidden = np.concatenate([normed(p, 1e-5) if len(p) > 1 else p for p in parts])
    for (first, first_bias, second, second_bias), kernel in zip(masks, kernels, strict=True):
        mask = relu(row @ first + first_bias) @ second + second_bias
        hidden = relu(normed((mask * hidden) @ kernel, 1e-3))
    return hidden
