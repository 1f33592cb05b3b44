"""Oracles of structures: NumPy loops, sharing no code with the package.

An expert or a gate is a function here: of one row's vector `(f,)` to `(u,)` or to weights `(e,)`.
"""

import math

import numpy as np


def ple(inputs, levels):
    """Progressive layered extraction.

    Args:
        inputs: `(b, f)`.
        levels: one dict a level: `own`, for each task a list of experts; `shared`, a list of
            experts; `gates`, one a task, its own experts first; `shared_gate`, of the first
            task's experts, the second's, ..., the shared ones, or None.

    Returns:
        `(b, t, u)`.
    """
    rows = []
    for x in inputs:
        num_tasks = len(levels[0]["own"])
        streams, common = [x] * num_tasks, x
        for level in levels:
            own = [
                [expert(stream) for expert in experts]
                for stream, experts in zip(streams, level["own"], strict=True)
            ]
            shared = [expert(common) for expert in level["shared"]]
            weights = [gate(stream) for gate, stream in zip(level["gates"], streams, strict=True)]
            if level["shared_gate"] is not None:
                of_all = level["shared_gate"](common)
                everyone = [output for outputs in own for output in outputs] + shared
                common = weighed(of_all, everyone)
            streams = [
                weighed(each, outputs + shared) for each, outputs in zip(weights, own, strict=True)
            ]
        rows.append(streams)
    return np.array(rows)


def weighed(weights, outputs):
    total = np.zeros_like(outputs[0])
    for weight, output in zip(weights, outputs, strict=True):
        total = total + weight * output
    return total


def adatt(inputs, levels):
    """Adaptive task-to-task fusion.

    Args:
        inputs: `(b, f)`.
        levels: one dict a level: `own`, for each task a list of experts; `shared`, a list of
            experts; `gates`, one a task, over all experts, those of tasks first; `residuals`, one
            array a task; `shared_gate` and `shared_residual`, or None.
    """
    rows = []
    for x in inputs:
        streams, common = [x] * len(levels[0]["own"]), x
        for level in levels:
            own = [
                [expert(stream) for expert in experts]
                for stream, experts in zip(streams, level["own"], strict=True)
            ]
            shared = [expert(common) for expert in level["shared"]]
            everyone = [output for outputs in own for output in outputs] + shared
            parts = zip(streams, own, level["gates"], level["residuals"], strict=True)
            streams = [
                weighed(gate(stream), everyone) + weighed(residual, outputs)
                for stream, outputs, gate, residual in parts
            ]
            if level["shared_gate"] is not None:
                common = weighed(level["shared_gate"](common), everyone)
                common = common + weighed(level["shared_residual"], shared)
        rows.append(streams)
    return np.array(rows)


def cross_stitch(inputs, layers, stitches):
    """Layers, one list of networks `(f,) -> (u,)` a layer, and matrices `(t, t)`: `(b, t, u)`."""
    rows = []
    for x in inputs:
        hidden = [x] * len(layers[0])
        for networks, stitch in zip(layers, stitches, strict=True):
            outputs = [network(h) for network, h in zip(networks, hidden, strict=True)]
            hidden = [weighed(row, outputs) for row in stitch]
        rows.append(hidden)
    return np.array(rows)


def snr(inputs, layers, open_shares, matrices):
    """Sub-network routing: `layers` as in `cross_stitch`, `z` `(i, j)` and `W[i][j]` between."""
    rows = []
    for x in inputs:
        hidden = [x] * len(layers[0])
        for networks, z, kernels in zip(layers, open_shares, matrices, strict=True):
            outputs = [network(h) for network, h in zip(networks, hidden, strict=True)]
            hidden = [
                sum(z[i, j] * (output @ kernels[i][j]) for i, output in enumerate(outputs))
                for j in range(z.shape[1])
            ]
        rows.append(hidden)
    return np.array(rows)


def hard_concrete(log_alpha, uniform=None):
    """How far a connection is open: with a draw from (0, 1), or without one."""
    logit = log_alpha
    if uniform is not None:
        logit = (math.log(uniform) - math.log(1 - uniform) + log_alpha) / (2 / 3)
    return min(1.0, max(0.0, 1.2 / (1 + math.exp(-logit)) - 0.1))


def mtan(inputs, trunk, masks):
    """A list of networks, and for each a list of one network a task: `(b, t, u)`."""
    rows = []
    for x in inputs:
        common, attended = x, None
        for layer, own in zip(trunk, masks, strict=True):
            common = layer(common)
            seen = [common] * len(own)
            if attended is not None:
                seen = [np.concatenate([common, a]) for a in attended]
            attended = [mask(s) * common for mask, s in zip(own, seen, strict=True)]
        rows.append(attended)
    return np.array(rows)


def home(inputs, group_of, meta, tasks):
    """A hierarchy of experts.

    Args:
        inputs: `(b, f)`.
        group_of: list of int, the group of each task.
        meta: `own`, for each group a list of experts; `shared`, a list; `gates`, one a group, its
            own experts first; `shared_gate`, of the first group's experts, ..., the shared ones;
            `self_gates`, one a group, over its own; `shared_self_gate`, over the shared ones.
        tasks: `own`, for each task a list of experts; `of_groups`, for each group; `shared`;
            `gates`, one a task, over its own, its group's and the shared ones; `self_gates`, over
            its own.

    Returns:
        `(b, t, u)`.
    """
    rows = []
    for x in inputs:
        own = [[expert(x) for expert in experts] for experts in meta["own"]]
        shared = [expert(x) for expert in meta["shared"]]
        groups = [
            weighed(gate(x), outputs + shared) + weighed(self_gate(x), outputs)
            for outputs, gate, self_gate in zip(own, meta["gates"], meta["self_gates"], strict=True)
        ]
        everyone = [output for outputs in own for output in outputs] + shared
        common = weighed(meta["shared_gate"](x), everyone)
        common = common + weighed(meta["shared_self_gate"](x), shared)
        of_all = [expert(common) for expert in tasks["shared"]]
        outputs = []
        for t, g in enumerate(group_of):
            of_task = [expert(groups[g]) for expert in tasks["own"][t]]
            of_group = [expert(groups[g]) for expert in tasks["of_groups"][g]]
            seen = np.concatenate([groups[g], common])
            mixed = weighed(tasks["gates"][t](seen), of_task + of_group + of_all)
            outputs.append(mixed + weighed(tasks["self_gates"][t](seen), of_task))
        rows.append(outputs)
    return np.array(rows)


def feature_gated(x, down, up, network):
    """An expert behind a low-rank gate on its inputs, `(f,) -> (u,)`."""
    return network(x * 2 / (1 + np.exp(-(x @ down @ up))))


def stem(encodings, own, shared, gates):
    """Experts of tasks on encodings of their own.

    Args:
        encodings: `(b, t + 1, f)`, the shared one last.
        own: for each task a list of experts; shared: a list of experts.
        gates: one a task, over the experts of the first task, ..., the shared ones.

    Returns:
        `(b, t, u)`.
    """
    rows = []
    for *of_tasks, common in encodings:
        outputs = [
            expert(x) for x, experts in zip(of_tasks, own, strict=True) for expert in experts
        ]
        outputs += [expert(common) for expert in shared]
        pairs = zip(gates, of_tasks, strict=True)
        rows.append([weighed(gate(x + common), outputs) for gate, x in pairs])
    return np.array(rows)
