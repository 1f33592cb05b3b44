"""Oracles: one function a formula, in NumPy loops, sharing no code with the package.

Axes: `b` example, `f` feature, `t` task, `e` expert, `u` unit, `k` selector, `m` bit.
"""

import math

import numpy as np


def softmax(scores):
    exponentials = np.exp(scores - np.max(scores))
    return exponentials / np.sum(exponentials)


def softmax_gate(inputs, matrices, temperature=1.0):
    """`inputs` `(b, f)`, one matrix `(f, e)` a task: `(b, t, e)`."""
    rows = [[softmax(x @ matrix / temperature) for matrix in matrices] for x in inputs]
    return np.array(rows)


def top_k_gate(scores, k):
    """Scores of one row `(e,)`: softmax of the `k` highest, 0 elsewhere."""
    chosen = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
    total = sum(math.exp(scores[i] - scores[chosen[0]]) for i in chosen)
    weights = np.zeros(len(scores))
    for i in chosen:
        weights[i] = math.exp(scores[i] - scores[chosen[0]]) / total
    return weights


def smooth_step(t, gamma):
    if t <= -gamma / 2:
        return 0.0
    if t >= gamma / 2:
        return 1.0
    return -2 * t**3 / gamma**3 + 3 * t / (2 * gamma) + 0.5


def selector(z, num_experts, gamma, fold):
    """Scores of one selector `(m,)`: probability of each expert's binary code `(e,)`.

    The most significant bit comes first. A code that names nobody counts, with `fold`,
    for the expert that its lower `m - 1` bits name, and is lost without.
    """
    m = math.ceil(math.log2(num_experts))
    probabilities = np.zeros(num_experts)
    for code in range(2**m):
        spelled = 1.0
        for j, bit in enumerate(format(code, f"0{m}b")):
            s = smooth_step(z[j], gamma)
            spelled *= s if bit == "1" else 1 - s
        if code < num_experts:
            probabilities[code] += spelled
        elif fold:
            probabilities[int(format(code, f"0{m}b")[1:], 2)] += spelled
    return probabilities


def dselect_k_row(z, alpha, num_experts, gamma, fold):
    """One row of weights `(e,)` from `z` `(k, m)` and `alpha` `(k,)`."""
    weights = np.zeros(num_experts)
    for share, scores in zip(softmax(alpha), z, strict=True):
        weights += share * selector(scores, num_experts, gamma, fold)
    return weights


def dselect_k_static(z, alpha, num_experts, gamma, fold=True):
    """`z` `(t, k, m)`, `alpha` `(t, k)`: `(1, t, e)`."""
    rows = zip(z, alpha, strict=True)
    return np.array([[dselect_k_row(*row, num_experts, gamma, fold) for row in rows]])


def dselect_k_per_example(inputs, dense_z, dense_alpha, num_experts, gamma, fold=True):
    """`dense_z`, `dense_alpha`: for each task `(kernel, bias)`. Returns `(b, t, e)`."""
    m = math.ceil(math.log2(num_experts))
    weights = []
    for x in inputs:
        row = []
        for (kernel_z, bias_z), (kernel, bias) in zip(dense_z, dense_alpha, strict=True):
            alpha = x @ kernel + bias
            z = (x @ kernel_z + bias_z).reshape(len(alpha), m)
            row.append(dselect_k_row(z, alpha, num_experts, gamma, fold))
        weights.append(row)
    return np.array(weights)


def entropy_loss(selectors):
    """Selectors `(b, t, k, e)`: mean over examples, sum over tasks and selectors."""
    total = 0.0
    for example in selectors:
        for r in example.reshape(-1, example.shape[-1]):
            total += -sum(p * math.log(p + 1e-6) for p in r)
    return total / len(selectors)


def reachability_loss(selectors):
    """Selectors `(b, t, k, e)`: mean over examples of the sum of `1 / sum_i r_i`."""
    total = 0.0
    for example in selectors:
        for r in example.reshape(-1, example.shape[-1]):
            total += 1 / max(sum(r), 1e-6)
    return total / len(selectors)


def relu(h):
    return np.maximum(h, 0)


def network(x, layers, activation=relu):
    """One example `(f,)` through `(W, b)` or `(W, b, scale, offset)` a layer."""
    h = x
    for kernel, bias, *norm in layers:
        h = h @ kernel + bias
        if norm:
            scale, offset = norm
            h = (h - h.mean()) / np.sqrt(h.var() + 1e-3) * scale + offset
        h = activation(h)
    return h


def experts(inputs, networks):
    """`inputs` `(b, f)` or `(b, e, f)`, a list of layers an expert: `(b, e, u)`."""
    rows = []
    for x in inputs:
        own = x if x.ndim == 2 else [x] * len(networks)
        rows.append([network(h, layers) for h, layers in zip(own, networks, strict=True)])
    return np.array(rows)


def mixture(outputs, weights):
    """Experts `(b, e, u)`, weights `(b or 1, t, e)`: `(b, t, u)`."""
    mixed = np.zeros((len(outputs), weights.shape[1], outputs.shape[2]))
    for b in range(len(outputs)):
        for t in range(weights.shape[1]):
            for e in range(outputs.shape[1]):
                mixed[b, t] += weights[b % len(weights), t, e] * outputs[b, e]
    return mixed


def shared_bottom(inputs, layers, num_tasks):
    return np.array([[network(x, layers)] * num_tasks for x in inputs])


def towers(inputs, networks, heads):
    """`inputs` `(b, t, u)`, hidden layers and `(W, b)` a task: a list of `(b, c)`."""
    outputs = []
    for t, (layers, (kernel, bias)) in enumerate(zip(networks, heads, strict=True)):
        outputs.append(np.array([network(x[t], layers) @ kernel + bias for x in inputs]))
    return outputs


def pool(ids, table, pooling):
    """A list column `(b, length)`; id 0 does not count, nothing but 0 gives 0."""
    rows = []
    for row in ids:
        vectors = [table[i] for i in row if i != 0]
        if not vectors:
            rows.append(np.zeros(table.shape[1]))
        elif pooling == "max":
            rows.append(np.max(vectors, axis=0))
        else:
            rows.append(np.sum(vectors, axis=0) / (len(vectors) if pooling == "mean" else 1))
    return np.array(rows)


def auc(labels, scores, weights=None):
    """Share of (positive, negative) pairs in the right order; a tie counts half."""
    weights = np.ones(len(labels)) if weights is None else weights
    right = total = 0.0
    for i in range(len(labels)):
        for j in range(len(labels)):
            if labels[i] == 1 and labels[j] == 0:
                pair = weights[i] * weights[j]
                total += pair
                right += pair * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
    return right / total if total else float("nan")


def weighted_mean(values, labels, weights=None):
    """Mean of values over the rows whose label is no NaN; NaN if there are none."""
    weights = np.ones(len(labels)) if weights is None else weights
    total = count = 0.0
    for value, label, weight in zip(values, labels, weights, strict=True):
        if not math.isnan(label):
            total += weight * value
            count += weight
    return total / count if count else float("nan")


def log_losses(labels, logits):
    """Per row, from logits `(b,)`; NaN where the label is."""
    losses = []
    for y, logit in zip(labels, logits, strict=True):
        p = 1 / (1 + math.exp(-logit))
        losses.append(-y * math.log(p) - (1 - y) * math.log(1 - p))
    return losses


def class_losses(labels, logits):
    """Per row, from logits `(b, c)`; NaN where the label is."""
    return [
        math.nan if math.isnan(y) else -math.log(softmax(row)[int(y)])
        for y, row in zip(labels, logits, strict=True)
    ]


def squared_errors(labels, predictions):
    return [(p - y) ** 2 for y, p in zip(labels, predictions, strict=True)]


def absolute_errors(labels, predictions):
    return [abs(p - y) for y, p in zip(labels, predictions, strict=True)]


def huber_losses(labels, predictions):
    errors = absolute_errors(labels, predictions)
    return [0.5 * e * e if e <= 1 else e - 0.5 for e in errors]
