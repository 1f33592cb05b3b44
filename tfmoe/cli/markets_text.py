"""What `tfmoe demo` says of generated data: the table of models, what was gained and what not."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tfmoe.reports.tables import GAP, plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from tfmoe.cli.markets import Trained
    from tfmoe.extraction.extract import Extraction


class Comparison(NamedTuple):
    """What was measured once all models were trained.

    Attributes:
        alone, shared, dense, ours: str, names of models.
        possible: float, mean AUC of the true probabilities.
        sizes: sequence of float, the parameters that serve one market, of each model.
        time_ratio: float, of a prediction by `ours`, divided by that of `dense`.
        wide_ratio: float, the same with wide experts.
        wide: tuple of int, their units.
        market: str, the one that was extracted of `ours`.
        extraction: `Extraction` of it.
        elsewhere: dict by model of the same difference in mean AUC, as a mean over six shops.
        chosen, num_experts: int, how many experts a sparse gate was to select, of how many.
    """

    alone: str
    shared: str
    dense: str
    ours: str
    possible: float
    sizes: Sequence[float]
    time_ratio: float
    wide_ratio: float
    wide: Sequence[int]
    market: str
    extraction: "Extraction"  # on rows, so that its change is known
    elsewhere: Mapping[str, float]
    chosen: int
    num_experts: int


def models_table(trained: "Sequence[Trained]", found: Comparison) -> "Table":
    """A row for each model; the first is what could be reached."""
    num = len(trained[0].auc)
    table = plain_table(f"On the test part, {num} markets")
    table.add_column("model", no_wrap=True)
    for title in (
        "mean AUC",
        "better than alone",
        "experts a row",
        "mult. a row",
        "params, all",
        "params, one market",
        "seconds to train",
    ):
        table.add_column(title, justify="right", min_width=8 if "better" in title else None)
    table.caption = (
        "mult.: multiplications from the encoded columns to the score; params: parameters, of "
        "all, and of one market's standalone model"
    )
    table.add_row("the truth", f"{found.possible:.4f}", *[""] * 6)
    for one, size in zip(trained, found.sizes, strict=True):
        is_alone = one.name == found.alone
        better = int(np.sum(one.auc > _named(trained, found.alone).auc))
        table.add_row(
            one.name,
            f"{np.mean(one.auc):.4f}",
            "" if is_alone else f"{better} of {num}",
            "" if np.isnan(one.experts) else f"{one.experts:.1f}",
            f"{one.multiplications:,.0f}",
            f"{one.parameters:,}",
            f"{size:,.0f}",
            f"{one.seconds:.0f}",
            style="bold" if one.name == found.ours else None,
        )
    return table


def findings(trained: "Sequence[Trained]", found: Comparison) -> "Table":
    """What `ours` gained and what it did not, in sentences, as a table."""
    from rich.table import Table

    table = Table.grid(padding=(0, GAP))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for title, sentences in (
        ("Quality", [_quality(trained, found), _elsewhere(found)]),
        ("Compute", [_compute(trained, found)]),
        ("Size", [_size(found)]),
        ("Not gained", not_gained(trained, found)),
    ):
        for number, sentence in enumerate(sentences):
            table.add_row("" if number else title, sentence)
    return table


def _named(trained: "Sequence[Trained]", name: str) -> "Trained":
    return next(one for one in trained if one.name == name)


def _quality(trained: "Sequence[Trained]", found: Comparison) -> str:
    ours = _named(trained, found.ours).auc
    parts = []
    for other, words in (
        (found.alone, "each market alone"),
        (found.shared, "a shared bottom of as many parameters"),
        (found.dense, f"{found.dense}, which computes all experts"),
    ):
        auc = _named(trained, other).auc
        better = int(np.sum(ours > auc))
        parts.append(
            f"{np.mean(ours - auc):+.3f} against {words} (better in {better} of {len(auc)})"
        )
    return f"mean AUC of {found.ours} {np.mean(ours):.3f}: {'; '.join(parts)}."


def _elsewhere(found: Comparison) -> str:
    parts = [f"{value:+.3f} against {name}" for name, value in found.elsewhere.items()]
    return f"One shop may be luck. The mean of six (benchmark `demo`): {', '.join(parts)}."


def _compute(trained: "Sequence[Trained]", found: Comparison) -> str:
    ours, dense = (_named(trained, name) for name in (found.ours, found.dense))
    share = ours.multiplications / dense.multiplications
    return (
        f"a row goes through {ours.experts:.3g} of {found.num_experts} experts, and needs "
        f"{share:.2f} of {found.dense}'s multiplications. Measured: a prediction took "
        f"{found.time_ratio:.2f} of its time with these small experts, {found.wide_ratio:.2f} "
        f"with experts of {' and '.join(map(str, found.wide))} units (not trained)."
    )


def _size(found: Comparison) -> str:
    done = found.extraction
    return (
        f"tfmoe.extract makes a model of {found.market} alone: {len(done.experts)} of "
        f"{found.num_experts} experts, {done.num_parameters:,} of "
        f"{done.num_parameters_before:,} parameters; predictions differ by at most "
        f"{done.largest_change or 0:.0e}."
    )


def not_gained(trained: "Sequence[Trained]", found: Comparison) -> list[str]:
    """Sentences: where another model is ahead, and where a gate is not what it was to be."""
    ours, place = _named(trained, found.ours), [one.name for one in trained].index(found.ours)
    said = []
    for one, size in zip(trained, found.sizes, strict=True):
        ahead = []
        if np.mean(one.auc) > np.mean(ours.auc):
            ahead.append(f"AUC {np.mean(one.auc - ours.auc):+.3f}")
        if one.multiplications < 0.95 * ours.multiplications:
            ahead.append("fewer multiplications")
        if size < 0.95 * found.sizes[place]:
            ahead.append("fewer parameters for one market")
        if one.seconds < 0.95 * ours.seconds:
            ahead.append(f"trained in {one.seconds / ours.seconds:.2f} of the time")
        if ahead:
            said.append(f"{one.name} is ahead: {', '.join(ahead)}.")
        if one.use is not None and one.name != found.dense:
            most = float(np.max(one.use.num_used))
            if most > found.chosen:
                said.append(
                    f"{one.name} was to select {found.chosen} experts a market, and uses "
                    f"{one.experts:.1f} on average, {most:.0f} at most: not all have decided."
                )
    said.append(
        "The shop is made so that regions want different things. Where tasks are alike a shared "
        "bottom does as well, with less to set: try it first."
    )
    return said
