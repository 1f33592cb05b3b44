"""What a console shows, and something to show."""

import io

import numpy as np
from rich.console import Console

from tfmoe.reports.gate_use import GateUse


def use(tasks, experts, decided=True):
    weights = np.random.default_rng(0).dirichlet(np.ones(len(experts)), size=len(tasks))
    return GateUse(
        gate="gate",
        tasks=tuple(tasks),
        experts=tuple(experts),
        mean_weight=weights,
        share_used=np.ones_like(weights),
        num_used=np.full(len(tasks), float(len(experts))),
        entropy=np.full(len(tasks), 2.7),
        effective_experts=np.full(len(tasks), 15.5),
        converged=np.ones(len(tasks)) if decided else None,
        usage=None,
        similarity=None,
        warnings=(),
    )


def shown(table, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()
