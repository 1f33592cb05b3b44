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


def top_k_of_all(scores, k):
    """Scores of one row `(e,)`: the `k` largest shares of the softmax over all, and 1e-4 more."""
    shares = [math.exp(score - max(scores)) for score in scores]
    weights = np.zeros(len(scores))
    for i in sorted(range(len(scores)), key=lambda i: -scores[i])[:k]:
        weights[i] = shares[i] / sum(shares) + 1e-4
    return weights


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


def groups(values, per_task):
    """`(b, t, e)` to lists of rows that are balanced together: all, or one a task."""
    tasks = range(values.shape[1])
    if per_task:
        return [[example[t] for example in values] for t in tasks]
    return [[example[t] for example in values for t in tasks]]


def squared_variation(usage):
    mean = sum(usage) / len(usage)
    return sum((u - mean) ** 2 for u in usage) / len(usage) / mean**2


def importance_loss(weights, per_task=False):
    found = [squared_variation(sum(rows)) for rows in groups(weights, per_task)]
    return sum(found) / len(found)


def load_loss(logits, spread, k, per_task=False):
    """`logits`, `spread` `(b, t, e)`."""
    found = []
    both = zip(groups(logits, per_task), groups(spread, per_task), strict=True)
    for rows, spreads in both:
        load = np.zeros(logits.shape[-1])
        for row, sigma in zip(rows, spreads, strict=True):
            for e in range(len(row)):
                others = sorted((row[i] for i in range(len(row)) if i != e), reverse=True)
                distance = (row[e] - others[k - 1]) / sigma[e]
                load[e] += 0.5 * (1 + math.erf(distance / math.sqrt(2)))
        found.append(squared_variation(load))
    return sum(found) / len(found)


def switch_loss(weights, probabilities, per_task=False):
    found = []
    both = zip(groups(weights, per_task), groups(probabilities, per_task), strict=True)
    for rows, full in both:
        e = len(rows[0])
        chosen = [sum(row[i] > 0 for row in rows) for i in range(e)]
        mean = [sum(row[i] for row in full) / len(full) for i in range(e)]
        found.append(e * sum(c / sum(chosen) * p for c, p in zip(chosen, mean, strict=True)))
    return sum(found) / len(found)


def z_loss(logits):
    rows = logits.reshape(-1, logits.shape[-1])
    return sum(math.log(sum(math.exp(score) for score in row)) ** 2 for row in rows) / len(rows)


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


def star(shared, own, num_scenarios):
    """Layers of networks, by element multiplied by what scenarios have of their own.

    Args:
        shared: for each layer arrays `(n, ...)`: kernel, bias[, scale, offset].
        own: the same as `(n, s, ...)`.
        num_scenarios: int, `s`.

    Returns:
        List of layers as `network` takes them, network by network, in each by scenario.
    """
    found = []
    for n in range(len(shared[0][0])):
        for s in range(num_scenarios):
            layers = []
            for weights, factors in zip(shared, own, strict=True):
                layer = []
                for place, (weight, factor) in enumerate(zip(weights, factors, strict=True)):
                    is_product = place in (0, 2)  # kernel and scale
                    value = (
                        weight[n] * (1 + factor[n, s]) if is_product else weight[n] + factor[n, s]
                    )
                    layer.append(value)
                layers.append(tuple(layer))
            found.append(layers)
    return found


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


# Sparse gates: sparsemax, entmax, ReLU.


def entmax(scores, alpha):
    """Scores of one row `(e,)`: alpha-entmax, its threshold by bisection; 2 is sparsemax."""
    scaled = [(alpha - 1) * score for score in scores]
    low, high = max(scaled) - 1, max(scaled)
    for _ in range(100):
        tau = (low + high) / 2
        if sum(max(z - tau, 0) ** (1 / (alpha - 1)) for z in scaled) > 1:
            low = tau
        else:
            high = tau
    return np.array([max(z - low, 0) ** (1 / (alpha - 1)) for z in scaled])


def relu_gate_loss(weights, k, coefficients):
    """Weights `(b, t, e)`, a coefficient a task."""
    num_examples, num_tasks, num_experts = weights.shape
    total = 0.0
    for t in range(num_tasks):
        for e in range(num_experts):
            busy = sum(weights[b, t, e] > 0 for b in range(num_examples))
            frequency = busy * num_experts / (k * num_examples)
            total += coefficients[t] * frequency * weights[:, t, e].sum() / num_examples
    return total


def relu_gate_coefficients(weights, k, coefficients):
    """What they are after a step with these weights."""
    moved = []
    for t, coefficient in enumerate(coefficients):
        active = sum(np.count_nonzero(row[t]) for row in weights)
        wanted = k * len(weights)
        moved.append(coefficient * (1.2 if active > wanted else 1 / 1.2 if active < wanted else 1))
    return np.array(moved)


# Gates with trees, a permutation, a hash, a levelling bias.


def comet_trees(splits, gamma):
    """Scores of one row's splits `(k, e - 1)`: probability of each leaf `(k, e)`.

    From each leaf up to the root: the parent of node i is (i - 1) // 2, and i is its left
    child if i is odd.
    """
    num_trees, num_experts = len(splits), splits.shape[1] + 1
    reached = np.ones((num_trees, num_experts))
    for j in range(num_trees):
        for i in range(num_experts):
            node = num_experts - 1 + i
            while node > 0:
                parent = (node - 1) // 2
                left = smooth_step(splits[j, parent], gamma)
                reached[j, i] *= left if node % 2 else 1 - left
                node = parent
    return reached


def comet_row(splits, leaves, gamma):
    """One row of weights `(e,)` from `splits` `(k, e - 1)` and `leaves` `(k, e)`."""
    reached = comet_trees(splits, gamma)
    weights = np.zeros(leaves.shape[1])
    for p, a in zip(reached, leaves, strict=True):
        for i in range(len(weights)):
            weights[i] += math.exp(a[i]) * p[i]
    return weights / weights.sum()


def sinkhorn(log_weights, temperatures):
    """Columns, then rows, normalised at each temperature in turn; shifts carried over."""
    size = len(log_weights)
    rows, columns = [0.0] * size, [0.0] * size

    def free(values, temperature):
        top = max(values)
        total = sum(math.exp((value - top) / temperature) for value in values)
        return top + temperature * math.log(total)

    for t in temperatures:
        for j in range(size):
            columns[j] = -free([log_weights[i, j] + rows[i] for i in range(size)], t)
        for i in range(size):
            rows[i] = -free([log_weights[i, j] + columns[j] for j in range(size)], t)
    shifted = log_weights + np.array(rows)[:, None] + np.array(columns)
    return np.exp(shifted / temperatures[-1])


def murmur_finalizer(x):
    """32 bits to 32 bits."""
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def hash_expert(value, num_experts, seed, task):
    """Expert of an id, as the task hashes it."""
    salt = murmur_finalizer((seed + 0x9E3779B9 * task) % 2**32)
    return murmur_finalizer(value % 2**32 ^ salt) % 2**31 % num_experts


def balanced_top_k_gate(scores, bias, k):
    """One row's scores and bias `(e,)`: weights `(e,)`."""
    affinity = [1 / (1 + math.exp(-score)) for score in scores]
    chosen = sorted(range(len(scores)), key=lambda i: -(affinity[i] + bias[i]))[:k]
    weights = np.zeros(len(scores))
    for i in chosen:
        weights[i] = affinity[i] / sum(affinity[j] for j in chosen)
    return weights


def balanced_bias(weights, bias, rate):
    """Bias `(t, e)` after a step with weights `(b, t, e)`."""
    moved = np.array(bias)
    for t in range(weights.shape[1]):
        load = [np.count_nonzero(weights[:, t, e]) for e in range(weights.shape[2])]
        for e in range(len(load)):
            moved[t, e] += rate * np.sign(sum(load) / len(load) - load[e])
    return moved


# Attention of experts.


def layer_norm(x, scale, offset, epsilon=1e-3):
    """One token `(d,)`."""
    return (x - x.mean()) / math.sqrt(x.var() + epsilon) * scale + offset


def gelu(h):
    return np.array([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in h])


def attention_head(tokens, present, query, key, value, causal, biases=(0.0, 0.0)):
    """One head over the tokens `(c, d)` of one example: `(c, h)`."""
    heads = []
    for i, token in enumerate(tokens):
        seen = [j for j in range(len(tokens)) if present[j] and not (causal and j > i)]
        keys = [tokens[j] @ key + biases[0] for j in seen]
        shares = softmax(np.array([token @ query @ k / math.sqrt(query.shape[1]) for k in keys]))
        values = [tokens[j] @ value + biases[1] for j in seen]
        heads.append(sum(s * v for s, v in zip(shares, values, strict=True)))
    return np.array(heads)


def moe_attention(tokens, present, weights, parts, causal, biases=(0.0, 0.0)):
    """Tokens `(b, c, d)`, weights `(b, c, e)`, parts `(queries, outputs, key, value)`.

    `biases` are the key's and the value's, `(h,)`.
    """
    queries, outputs, key, value = parts
    result = np.zeros(tokens.shape)
    for b, example in enumerate(tokens):
        for e, (query, output) in enumerate(zip(queries, outputs, strict=True)):
            head = attention_head(example, present[b], query, key, value, causal, biases)
            for i in range(len(example)):
                result[b, i] += weights[b, i, e] * head[i] @ output
    return result


# One task a row: routers that know the task, task-aware gates, usage.


def task_router_mlp(inputs, embeddings, layers, head, activation=relu):
    """Concatenates each example and task: scores `(b, t, s)`."""
    return np.array(
        [
            [network(np.concatenate([x, e]), layers, activation) @ head for e in embeddings]
            for x in inputs
        ]
    )


def task_router_low_rank(inputs, embeddings, shared, down, up):
    """One matrix a task, `shared + down diag(e) up`: scores `(b, t, s)`."""
    matrices = [shared + down @ np.diag(e) @ up for e in embeddings]
    return np.array([[x @ matrix for matrix in matrices] for x in inputs])


def task_aware_gate(scores, k, renormalize):
    """Scores of one row `(e,)`: probabilities of the `k` best, 0 elsewhere."""
    probabilities = softmax(scores)
    chosen = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
    total = sum(probabilities[i] for i in chosen) if renormalize else 1.0
    return np.array([p / total if i in chosen else 0.0 for i, p in enumerate(probabilities)])


def usage(steps, num_tasks, decay):
    """Steps of `(weights, task)`, weights `(b, 1, e)`: `(t, e)`, weighed by age."""
    averages = []
    for t in range(num_tasks):
        shares = [np.mean(w[task == t, 0] > 0, axis=0) for w, task in steps if t in task]
        ages = [decay**i for i in reversed(range(len(shares)))]
        total = sum(age * share for age, share in zip(ages, shares, strict=True))
        averages.append(total / sum(ages) if shares else np.full(steps[0][0].shape[-1], np.nan))
    return np.array(averages)


# Experts matched to tasks.


def mutual_information(joint, prior="counts"):
    """Of a table `(t, e)` of any sum, in nats."""
    joint = np.asarray(joint, "float64")
    if prior == "uniform":
        joint = np.array([row / row.sum() if row.sum() else row for row in joint])
    joint = joint / joint.sum()
    total = 0.0
    for t in range(joint.shape[0]):
        for e in range(joint.shape[1]):
            if joint[t, e]:
                independent = joint[t].sum() * joint[:, e].sum()
                total += joint[t, e] * np.log(joint[t, e] / independent)
    return total


def task_expert_sums(probabilities, labels, num_tasks, task=None, present=None):
    """Each task's labelled rows' probabilities, `(t, e)`; several record rows a label."""
    joint = np.zeros((num_tasks, probabilities.shape[-1]))
    num = max(len(probabilities), len(labels))
    for i in range(num):
        row = i * len(labels) // num
        shares = probabilities[i if len(probabilities) > 1 else 0]
        counts = 1.0 if present is None else present[i]
        for t in range(num_tasks):
            if task is None:
                joint[t] += counts * labels[row, t] * shares[t]
            elif task[i] == t:
                joint[t] += counts * labels[row] * shares[0]
    return joint
