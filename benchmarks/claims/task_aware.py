"""Claims of the paper on task-aware mixtures, but for those that a study named beforehand."""

from itertools import product

from benchmarks.claims.claim import Claim
from benchmarks.claims.robust import SETS, WIDE, robust
from benchmarks.verdicts import Paired, Ratio

ADDED, ROUTING = "task-aware, added after", "task-aware"


def _transfer(ours, rival, fractions):
    return [
        Paired(
            f"{where}, {100 * fraction:g}\N{NO-BREAK SPACE}%",
            {"name": f"{ours}, beats {rival}", "set": where, "fraction": fraction},
            {"name": ours, "set": where, "fraction": fraction},
            {"name": rival, "set": where, "fraction": fraction},
        )
        for where, fraction in product(SETS, fractions)
    ]


def _unseen(rival, numbers):
    return [
        Paired(
            f"{where}, {rows:,} rows",
            {"name": f"beats {rival}", "set": where, "rows": rows},
            {"name": "task-aware routing", "set": where, "rows": rows},
            {"name": rival, "set": where, "rows": rows},
        )
        for where, rows in product(SETS, numbers)
    ]


TASK_AWARE = (
    Claim(
        "task-aware",
        "transfer",
        "A task with 0.1 or 1 % of its labels does better added to a trained mixture than alone.",
        _transfer(ADDED, "single task", (0.001, 0.01)),
    ),
    Claim(
        "task-aware",
        "transfer",
        "A task with 10 % of its labels does better added to a trained mixture than alone.",
        _transfer(ADDED, "single task", (0.1,)),
    ),
    Claim(
        "task-aware",
        "transfer",
        "A task with 0.1 or 1 % of its labels does better learned with the others than alone.",
        _transfer(ROUTING, "single task", (0.001, 0.01)),
    ),
    Claim(
        "task-aware",
        "transfer",
        "Added to a trained mixture it does better than in a shared bottom of two layers.",
        _transfer(ADDED, "shared bottom", (0.001, 0.01)),
    ),
    Claim(
        "task-aware",
        "transfer",
        "Added to a trained mixture it does better than in a shared bottom of one wide layer.",
        _transfer(ADDED, WIDE, (0.001, 0.01)),
    ),
    Claim(
        "task-aware",
        "transfer",
        "Added to a trained mixture it does better than in a dense MMoE.",
        _transfer(ADDED, "dense MMoE", (0.001, 0.01)),
    ),
    Claim(
        "task-aware",
        "unseen",
        "A new task of 32 or 128 rows does better by routing to trained experts than from scratch.",
        _unseen("from scratch", (32, 128)),
    ),
    Claim(
        "task-aware",
        "unseen",
        "A new task of 512 or 2,048 rows does better by routing than from scratch.",
        _unseen("from scratch", (512, 2048)),
    ),
    Claim(
        "task-aware",
        "unseen",
        "A new task does better by routing than by fine-tuning a shared bottom of two layers.",
        _unseen("fine-tuned shared bottom", (32, 128, 512, 2048)),
    ),
    Claim(
        "task-aware",
        "unseen",
        "A new task does better by routing than by fine-tuning a shared bottom of one wide layer.",
        _unseen("fine-tuned, one layer", (32, 128, 512, 2048)),
    ),
    Claim(
        "task-aware",
        "robust",
        "Sixteen unrelated tasks cost the others less than in a shared bottom of two layers.",
        robust(ROUTING, ("shared bottom",)),
    ),
    Claim(
        "task-aware",
        "robust",
        "Sixteen unrelated tasks cost the others less than in a shared bottom of one wide layer, "
        "or in a dense MMoE.",
        robust(ROUTING, (WIDE, "dense MMoE")),
    ),
    Claim(
        "task-aware",
        "robust",
        "One or four unrelated tasks cost the others less than in a shared bottom of two layers.",
        robust(ROUTING, ("shared bottom",), (1, 4)),
    ),
    Claim(
        "task-aware",
        "tasks",
        "A step takes no longer with more experts, of which a row goes through two.",
        [
            Ratio(
                "64 experts against 8, time",
                {"name": "experts", "experts": 64},
                quartiles=("q1", "q3"),
                less=True,
            )
        ],
    ),
    Claim(
        "task-aware",
        "tasks",
        "A step takes no longer with more tasks.",
        [
            Ratio(
                "128 tasks against 2, time",
                {"name": "tasks", "tasks": 128},
                quartiles=("q1", "q3"),
                less=True,
            )
        ],
    ),
)
