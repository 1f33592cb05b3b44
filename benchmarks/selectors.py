"""What DSelect-k's selectors become in training, from the authors' initialisation."""

import itertools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfmoe.compute.math import expert_codes, num_bits, smooth_step
from tfmoe.gates.dselect_k import DSelectKGate

COUNTS = (3, 5, 6, 7, 9, 12, 17, 24, 31)
CONTROLS = (8, 16)  # powers of two: no code is dead, and both ways are one
SEEDS, STEPS, EVERY = 100, 1500, 10
ROWS, FEATURES, NOISE = 256, 16, 0.1
K, GAMMA, LEARNING_RATE, ENTROPY_REG = 2, 1.0, 0.01, 0.1
USED = 1e-6


def run(quick):
    """A row for every number of experts, way and regulariser; every task is a seed."""
    counts, controls = ((5,), ()) if quick else (COUNTS, CONTROLS)
    seeds, steps = (5, 40) if quick else (SEEDS, STEPS)
    rows = []
    for num_experts in sorted([*counts, *controls]):
        problem = Problem(num_experts, seeds)
        ways = ("fold",) if num_experts in controls else ("fold", "penalty")
        for way, entropy_reg in itertools.product(ways, (0.0, ENTROPY_REG)):
            rows.append(_row(problem, way, entropy_reg, steps))
    return rows


def headline(rows):
    """Means over the numbers of experts that are no power of two, regularised."""
    figures = []
    for way in ("fold", "penalty"):
        of = [r for r in rows if r["name"] == way and r["entropy_reg"] > 0]
        of = [r for r in of if r["experts"] & (r["experts"] - 1)]
        for name in ("saturated", "sparse", "dead", "found", "excess"):
            figures.append(f"{way}_{name}={np.mean([r[name] for r in of]):.3f}")
    return " ".join(figures)


class Problem:
    """Targets that are a mix of two of the experts, for each seed other ones.

    The experts are random ReLU features of mean square 1 over `ROWS` rows; shares are
    uniform in [0.3, 0.7]; the noise has standard deviation `NOISE`. Only the gate is
    learned, so that a task's mean squared error is `g A g - 2 b g + c` in its weights `g`.
    """

    def __init__(self, num_experts, seeds):
        rng = np.random.default_rng(num_experts)
        self.num_experts, self.seeds = num_experts, seeds
        inputs = rng.normal(size=(seeds, ROWS, FEATURES))
        outputs = np.maximum(inputs @ rng.normal(size=(seeds, FEATURES, num_experts)), 0)
        outputs /= np.sqrt(np.mean(outputs**2, axis=1, keepdims=True))
        mix = np.zeros((seeds, num_experts))
        for weights in mix:
            share = rng.uniform(0.3, 0.7)
            weights[rng.choice(num_experts, 2, replace=False)] = share, 1 - share
        targets = np.einsum("sne,se->sn", outputs, mix)
        targets += NOISE * rng.normal(size=targets.shape)
        self.a = np.einsum("sni,snj->sij", outputs, outputs) / ROWS
        self.b = np.einsum("sni,sn->si", outputs, targets) / ROWS
        self.c = np.mean(targets**2, axis=1)

    def losses(self, weights):
        """Weights `(s, e)` to losses `(s,)`."""
        quadratic = np.einsum("si,sij,sj->s", weights, self.a, weights)
        return quadratic - 2 * np.sum(self.b * weights, axis=1) + self.c

    def best(self):
        """Of all subsets of two with all shares: losses `(s,)` and weights `(s, e)`."""
        lowest, weights = np.full(self.seeds, np.inf), np.zeros((self.seeds, self.num_experts))
        for i, j in itertools.combinations(range(self.num_experts), 2):
            curve = self.a[:, i, i] - 2 * self.a[:, i, j] + self.a[:, j, j]
            slope = self.b[:, i] - self.b[:, j] - self.a[:, i, j] + self.a[:, j, j]
            pair = np.zeros_like(weights)
            pair[:, i] = np.clip(slope / curve, 0, 1)
            pair[:, j] = 1 - pair[:, i]
            losses = self.losses(pair)
            better = losses < lowest
            lowest[better], weights[better] = losses[better], pair[better]
        return lowest, weights


def _row(problem, way, entropy_reg, steps):
    e = problem.num_experts
    gate, history = _trained(problem, way, entropy_reg, steps)
    weights, saturated, dead = _state(gate)
    lowest, best = problem.best()
    used = weights > USED
    uniform = problem.losses(np.full(weights.shape, 1 / e))
    excess = (problem.losses(weights) - lowest) / (uniform - lowest)
    return {
        "name": way,
        "experts": e,
        "entropy_reg": entropy_reg,
        "saturated": float(np.mean(saturated)),
        "sparse": float(np.mean(used.sum(axis=1) <= K)),
        "dead": float(np.mean(dead)),
        "row_sum": float(np.mean(weights.sum(axis=1))),
        "found": float(np.mean(np.all(used == (best > USED), axis=1))),
        "excess": float(np.mean(excess)),
        "steps_sparse": _first_half(history["sparse"]),
        "steps_saturated": _first_half(history["saturated"]),
        "two_codes": _favour(used, best > USED, e) if way == "fold" else None,
    }


def _first_half(shares):
    """The first step at which half of them are, or None."""
    reached = np.flatnonzero(np.array(shares) >= 0.5)
    return int(reached[0] + 1) * EVERY if len(reached) else None


def _favour(used, best, num_experts):
    """How often experts with two codes are chosen, by how often they are right."""
    half = 2 ** (num_bits(num_experts) - 1)
    if num_experts == 2 * half:
        return None
    twice = slice(num_experts - half, half)
    share = [np.sum(chosen[:, twice]) / np.sum(chosen) for chosen in (used, best)]
    return float(share[0] / share[1])


def _trained(problem, way, entropy_reg, steps):
    """A static gate with one task a seed, and shares of what was decided every few steps."""
    keras.utils.set_random_seed(problem.num_experts)
    rising = keras.optimizers.schedules.PolynomialDecay(0.0, steps // 2, entropy_reg)
    gate = DSelectKGate(
        problem.seeds,
        problem.num_experts,
        K,
        GAMMA,
        rising if entropy_reg else 0.0,
        "static",
        reachability=way,
    )
    nothing = np.zeros((1, 1), "float32")
    gate.build(nothing.shape)
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(gate.trainable_variables)
    a, b = (tf.constant(part, "float32") for part in (problem.a, problem.b))
    (scores,) = gate.trainable_variables

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            weights = gate(nothing, training=True)[0]
            # Summed over the tasks, so that each is trained as if it were alone.
            loss = tf.einsum("si,sij,sj->", weights, a, weights) - 2 * tf.reduce_sum(b * weights)
            loss = loss + sum(gate.losses)
        optimizer.apply([tape.gradient(loss, scores.value)], [scores])

    history = {"sparse": [], "saturated": []}
    for index in range(steps):
        step()
        if index % EVERY == EVERY - 1:
            weights, converged, _ = _state(gate)
            history["sparse"].append(np.mean(np.sum(weights > USED, axis=1) <= K))
            history["saturated"].append(np.mean(converged))
    return gate, history


def _state(gate):
    """Weights `(s, e)`, share of converged selectors `(s,)`, and which are lost `(s, k)`."""
    weights, record = gate(np.zeros((1, 1), "float32"), return_aux=True)
    scores = record.scores
    m = num_bits(gate.num_experts)
    z = ops.reshape(scores[..., : K * m], (1, gate.num_tasks * K, m))
    bits = smooth_step(ops.swapaxes(z, 1, 2), GAMMA)
    live = expert_codes(bits, gate.num_experts, gate.reachability == "fold")
    dead = ops.reshape(ops.sum(live, axis=1) < USED, (1, gate.num_tasks, K))
    converged = gate.converged(scores)
    return tuple(ops.convert_to_numpy(x)[0] for x in (weights, converged, dead))
