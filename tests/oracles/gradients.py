"""What combines gradients, on the rows of a Jacobian `(t, n)` themselves: the combination `(n,)`.

Convex programs are solved by trying every set of tasks that may count.
"""

import itertools

import numpy as np
from scipy.optimize import minimize


def subsets(num):
    for size in range(1, num + 1):
        yield from (list(chosen) for chosen in itertools.combinations(range(num), size))


def mgda(jacobian):
    best = None
    for chosen in subsets(len(jacobian)):
        rows = jacobian[chosen]
        size = len(chosen)
        system = np.zeros((size + 1, size + 1))
        system[:size, :size] = rows @ rows.T
        system[:size, size] = system[size, :size] = 1
        weights = np.linalg.lstsq(system, np.eye(size + 1)[size], rcond=None)[0][:size]
        if np.min(weights) < -1e-9 or abs(np.sum(weights) - 1) > 1e-6:
            continue
        found = weights @ rows
        if best is None or found @ found < best @ best:
            best = found
    return best


def cagrad(jacobian, c):
    num = len(jacobian)
    mean = jacobian.mean(axis=0)
    unit = np.linalg.norm(mean)

    def value(w):
        return ((w @ jacobian) @ mean + c * unit * np.linalg.norm(w @ jacobian)) / unit**2

    whole = {"type": "eq", "fun": lambda w: np.sum(w) - 1}
    options = {"ftol": 1e-15, "maxiter": 500}
    starts = [np.full(num, 1 / num), *(0.9 * np.eye(num) + 0.1 / num)]
    tries = [
        minimize(value, start, bounds=[(0, 1)] * num, constraints=whole, options=options)
        for start in starts
    ]
    best = min(tries, key=lambda one: one.fun).x @ jacobian
    return mean + c * unit * best / np.linalg.norm(best)


def upgrad(jacobian):
    num = len(jacobian)
    projected = []
    for i in range(num):
        best = None
        for chosen in [[], *subsets(num)]:
            rows = jacobian[chosen]
            more = np.linalg.lstsq(rows.T, -jacobian[i], rcond=None)[0] if chosen else []
            found = jacobian[i] + sum((w * row for w, row in zip(more, rows, strict=True)), 0)
            if np.min(more, initial=0) > -1e-9 and (best is None or found @ found < best @ best):
                best = found
        projected.append(best)
    return np.mean(projected, axis=0)


def nash_mtl(jacobian):
    """By Newton's method on the logarithms of the weights, of length 1."""
    gram = jacobian @ jacobian.T
    logs = -np.log(np.linalg.norm(jacobian, axis=1))
    result = minimize(
        lambda s: np.exp(s) @ gram @ np.exp(s) / 2 - np.sum(s),
        logs,
        jac=lambda s: np.exp(s) * (gram @ np.exp(s)) - 1,
        method="BFGS",
        options={"gtol": 1e-9, "maxiter": 5000},
    )
    return np.exp(result.x) @ jacobian / np.sqrt(len(jacobian))


def aligned_mtl(jacobian):
    left, values, right = np.linalg.svd(jacobian, full_matrices=False)
    return (values.min() * left @ right).mean(axis=0)


def imtl_g(jacobian):
    """The closed form of the paper's equation 7."""
    if len(jacobian) == 1:
        return jacobian[0]
    units = jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)
    differences, directions = jacobian[0] - jacobian[1:], units[0] - units[1:]
    others = jacobian[0] @ directions.T @ np.linalg.inv(differences @ directions.T)
    return np.concatenate([[1 - np.sum(others)], others]) @ jacobian


def pcgrad(jacobian, order):
    total = np.zeros(jacobian.shape[1])
    for i, gradient in enumerate(jacobian):
        own = gradient.copy()
        for j in order:
            product = own @ jacobian[j]
            if j != i and product < 0:
                own -= product / (jacobian[j] @ jacobian[j]) * jacobian[j]
        total += own
    return total


def dual_balancing(jacobian):
    norms = [np.sqrt(np.sum(row**2)) for row in jacobian]
    return sum(max(norms) / norm * row for norm, row in zip(norms, jacobian, strict=True))


def by_parameter(jacobian, combine):
    """`combine` where at least two tasks have a gradient that is not 0, elsewhere the sum."""
    shared = [n for n in range(jacobian.shape[1]) if np.sum(jacobian[:, n] != 0) > 1]
    found = jacobian.sum(axis=0)
    there = jacobian[:, shared]
    tasks = [t for t in range(len(jacobian)) if np.any(there[t] != 0)]
    if tasks:
        found[shared] = combine(there[tasks])
    return found
