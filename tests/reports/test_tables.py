"""Tables are whole at 80 columns."""

import numpy as np
import pytest

from tests.oracles.consoles import shown, use
from tfmoe.reports.tables import MOST_ROWS, use_table

LONG = "add_to_cart_after_a_search_within_seven_days"


@pytest.mark.parametrize("decided", [True, False])
@pytest.mark.parametrize(
    ("tasks", "experts"),
    [
        (["watch", "rating"], range(8)),
        ([f"task_{t}" for t in range(20)], range(16)),
        ([f"{LONG}_{t}" for t in range(20)], range(100, 228)),
    ],
)
def test_use_is_whole_at_80_columns(tasks, experts, decided):
    one = use(tasks, experts, decided)
    text = shown(use_table(one, "gate"))
    assert "…" not in text
    whole = "".join(text.split())
    cells = {f"{experts[e]}:{w:.2f}" for row in one.mean_weight for e, w in enumerate(row)}
    for t, task in enumerate(tasks):
        largest = np.argsort(-one.mean_weight[t], kind="stable")[:4]
        # Expert and weight are never on two lines.
        pairs = [f"{experts[e]}:{one.mean_weight[t, e]:.2f}" for e in largest]
        assert set(pairs) <= cells & set(text.split())
        if len(task) < 20:
            assert f"{task}" in whole
    for heading in ("task", "a row", "in all", "entropy", "expert:mean weight"):
        assert heading in text
    assert ("decided" in text) == decided


def test_a_long_name_is_folded():
    text = shown(use_table(use([LONG], range(4)), "gate"))
    first = [line.split("  ")[0].strip() for line in text.splitlines()[3:]]
    assert "".join(first) == LONG


def test_many_tasks_are_counted_and_found_elsewhere():
    names = [f"task_{t}" for t in range(MOST_ROWS + 6)]
    text = shown(use_table(use(names, range(4)), "gate", whole="report/gates.csv"))
    assert "and 6 more tasks: see report/gates.csv" in text
    assert f"task_{MOST_ROWS - 1}" in text
    assert f"task_{MOST_ROWS}" not in text
