"""Chains of tasks and their losses, row by row in NumPy."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, "float64")))


def log_loss(label, probability):
    return -label * np.log(probability) - (1 - label) * np.log(1 - probability)


def escm2(clicks, buys, click_logits, conditional_logits, imputed_logits, floor, weights):
    """The conditional probability's loss; `imputed_logits` None for inverse propensities."""
    total = weight = 0.0
    for i, click in enumerate(clicks):
        buy = 0.0 if click == 0 and np.isnan(buys[i]) else buys[i]
        if np.isnan(click) or np.isnan(buy):
            continue
        propensity = max(sigmoid(click_logits[i]), floor)
        probability = sigmoid(conditional_logits[i])
        error = log_loss(buy, probability)
        if imputed_logits is None:
            term = click * error / propensity
        else:
            expected = log_loss(sigmoid(imputed_logits[i]), probability)
            term = expected + click * (error - expected) / propensity
            term += click * (error - expected) ** 2 / propensity
        total += weights[i] * term
        weight += weights[i]
    return total / weight


def attention_link(own, parent, info, info_bias, key, query, value):
    """AITM's attention of one row."""
    passed = np.maximum(parent @ info + info_bias, 0)
    scores = [(v @ key) @ (v @ query) / np.sqrt(len(own)) for v in (own, passed)]
    weights = np.exp(scores) / np.exp(scores).sum()
    return weights[0] * own @ value + weights[1] * passed @ value


def focal(label, logit, gamma, alpha):
    p = sigmoid(logit)
    if label == 1:
        return -alpha * (1 - p) ** gamma * np.log(p)
    return -(1 - alpha) * p**gamma * np.log(1 - p)


def zero_inflated_lognormal(label, logits):
    p, mu = sigmoid(logits[0]), float(logits[1])
    sigma = np.log1p(np.exp(float(logits[2])))
    if label == 0:
        return -np.log(1 - p)
    density = np.log(label * sigma * np.sqrt(2 * np.pi))
    return -np.log(p) + density + (np.log(label) - mu) ** 2 / (2 * sigma**2)


def pairwise(labels, logits, weights, groups):
    total = weight = 0.0
    for i in range(len(labels)):
        for j in range(len(labels)):
            if groups[i] == groups[j] and groups[i] >= 0 and labels[i] > labels[j]:
                own = weights[i] * weights[j]
                total += own * np.log1p(np.exp(float(logits[j]) - float(logits[i])))
                weight += own
    return total / weight
