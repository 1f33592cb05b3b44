"""What was claimed of studies that others have superseded."""

from itertools import product

from benchmarks.claims.claim import Claim
from benchmarks.verdicts import Difference, Paired, Single

TASKS = (16, 32, 64, 128)


def _static(rival, number=TASKS, ours="DSelect-k", key="score", less=True, form="static"):
    return [
        Difference(f"{tasks} tasks", ours, rival, {"tasks": tasks, "set": form}, key, less)
        for tasks in number
    ]


def _correlation(rival, scales):
    return [
        Paired(
            f"correlation {p}" + (", steep" if scale else ""),
            {"name": f"MMoE has less error than {rival}", "set": f"p = {p}{scale}"},
            {"name": "MMoE", "set": f"p = {p}{scale}"},
            {"name": rival, "set": f"p = {p}{scale}"},
        )
        for scale, p in product(scales, ("0.5", "0.9", "1"))
    ]


SUPERSEDED = (
    Claim(
        "superseded",
        "correlation_2026-11",
        "Two tasks of nearly straight sines: MMoE has less error than a shared bottom.",
        _correlation("shared bottom", ("",)),
    ),
    Claim(
        "superseded",
        "correlation_2026-11",
        "Two tasks of steep sines: MMoE has less error than a shared bottom.",
        _correlation("shared bottom", (", scale 1",)),
    ),
    Claim(
        "superseded",
        "correlation_2026-11",
        "One gate for each task (MMoE) has less error than one gate for both (OMoE).",
        _correlation("OMoE", ("", ", scale 1")),
    ),
    Claim(
        "superseded",
        "movielens_cut",
        "MovieLens-1M: DSelect-k has less loss than Top-k. (Ours is one run each, where `watch` "
        "weighs 0.1 with unequal learning rates: no result.)",
        [
            Single(
                f"watch weighs {weight}",
                {"name": "DSelect-k", "fraction": 0.25, "watch_weight": weight},
                [{"name": "Top-k", "fraction": 0.25, "watch_weight": weight}],
                "loss",
            )
            for weight in (0.1, 0.9)
        ],
    ),
    Claim(
        "superseded",
        "synthetic_2026-11",
        "Static gates, 32 tasks and more: DSelect-k has less error than plain Top-k.",
        _static("Top-k", (32, 64, 128)),
    ),
    Claim(
        "superseded",
        "synthetic_2026-11",
        "Static gates, 16 tasks: DSelect-k has less error than plain Top-k.",
        _static("Top-k", (16,)),
    ),
    Claim(
        "superseded",
        "synthetic_2026-11",
        "Static gates, DSelect-k kept to four experts, as Top-k is: it has less error than plain "
        "Top-k.",
        _static("Top-k", ours="DSelect-k, at most 4"),
    ),
    Claim(
        "superseded",
        "synthetic_2026-11",
        "Static gates: DSelect-k selects the right experts better than plain Top-k (F1).",
        _static("Top-k", key="f1", less=False),
    ),
    Claim(
        "superseded",
        "synthetic_2026-11",
        "Static gates: DSelect-k has less error than Top-k with learned noise.",
        _static("noisy Top-k"),
    ),
    Claim(
        "superseded",
        "synthetic_2026-11",
        "Static gates: DSelect-k selects the right experts better than Top-k with learned noise "
        "(F1).",
        _static("noisy Top-k", key="f1", less=False),
    ),
    Claim(
        "superseded",
        "synthetic_2026-11",
        "Gates per example: DSelect-k has less error than plain Top-k. (It weighs all sixteen "
        "experts, so nothing is selected.)",
        _static("Top-k", form="per example"),
    ),
    Claim(
        "superseded",
        "synthetic_2026-11",
        "Gates per example, DSelect-k kept to four experts: it has less error than plain Top-k.",
        _static("Top-k", ours="DSelect-k, at most 4", form="per example"),
    ),
    Claim(
        "superseded",
        "multimnist_2026-11",
        "Multi-MNIST: DSelect-k is more accurate than Top-k, which has learned noise. (Ours is cut "
        "to a tenth of the pictures and four epochs.)",
        [
            Paired(
                "mean of both digits",
                {"name": "DSelect-k beats Top-k"},
                {"name": "DSelect-k"},
                {"name": "Top-k"},
                "accuracy",
            )
        ],
    ),
)
