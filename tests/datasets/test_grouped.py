import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmoe.datasets.grouped import (
    GroupedTasks,
    add_unrelated,
    grouped_tasks,
    task_rows,
)
from tfmoe.datasets.selection import selection_scores


def world_of(groups, weights):
    return GroupedTasks(None, None, None, np.array(groups), np.array(weights, float))


def test_shapes_groups_and_scale():
    world = grouped_tasks(num_tasks=6, num_experts=9, experts_per_group=3, noise=0.0, seed=3)
    assert [len(y) for _, y in (world.train, world.valid, world.test)] == [16_000, 2000, 2000]
    assert world.train[0].dtype == world.train[1].dtype == np.float32
    np.testing.assert_array_equal(world.groups, [0, 0, 1, 1, 2, 2])
    np.testing.assert_allclose(world.weights.sum(axis=1), 1)
    for task, group in enumerate(world.groups):
        assert set(np.flatnonzero(world.weights[task])) == {3 * group + i for i in range(3)}
    y = np.concatenate([part[1] for part in world[:3]])
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=1e-4)


def test_tasks_of_a_group_are_mixes_of_its_experts_alone():
    world = grouped_tasks(num_tasks=9, num_experts=4, experts_per_group=2, noise=0.0, seed=1)
    y = world.train[1].astype("float64")
    assert [np.linalg.matrix_rank(y[:, world.groups == g], tol=0.1) for g in (0, 1)] == [2, 2]


def test_true_experts_have_one_scale():
    """Then one number, their correlation, explains those of all tasks of the group."""
    world = grouped_tasks(num_tasks=4, num_experts=2, experts_per_group=2, noise=0.0)
    y = np.concatenate([part[1] for part in world[:3]]).astype("float64")
    found = []
    for between in np.linspace(-0.999, 0.999, 1999):
        products = world.weights @ [[1, between], [between, 1]] @ world.weights.T
        lengths = np.sqrt(np.diag(products))
        found.append(np.abs(products / np.outer(lengths, lengths) - np.corrcoef(y.T)).max())
    assert min(found) < 2e-3


def test_noise_is_as_large_as_said():
    clean, noisy = (grouped_tasks(noise=noise).train[1] for noise in (0.0, 0.5))
    assert np.std(noisy - clean) == pytest.approx(0.5, rel=0.01)


def test_seed_decides():
    first, again, other = (grouped_tasks(num_rows=50, seed=seed).test[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_scores_by_hand():
    world = world_of([0, 0, 1], [[0.5, 0.5, 0, 0], [0.1, 0.9, 0, 0], [0, 0, 0.5, 0.5]])
    selected = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]], bool)
    scores = selection_scores(selected, world)
    assert scores.jaccard == pytest.approx(1 / 3)
    # Best match: 0 and 1 to themselves, 3 to one of 2 and 3: 1 + 2 + 1 of 5 selected, 6 true.
    assert scores.precision == pytest.approx(4 / 5)
    assert scores.recall == pytest.approx(4 / 6)
    assert scores.f1 == pytest.approx(8 / 11)


@given(st.permutations(range(6)))
def test_the_order_of_experts_does_not_count(order):
    world = grouped_tasks(num_tasks=6, num_experts=6, experts_per_group=2, num_rows=10)
    assert selection_scores((world.weights > 0)[:, order], world) == (1, 1, 1, 1)


def test_extremes():
    world = world_of([0, 1], [[1.0, 0], [0, 1.0]])
    nothing = selection_scores(np.zeros((2, 2)), world)
    assert nothing[1:] == (0, 0, 0)
    assert np.isnan(nothing.jaccard)  # no two tasks of one group
    assert selection_scores(np.ones((2, 2)), world)[1:] == pytest.approx((0.5, 1, 2 / 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_tasks": 0}, "integer of at least 1. Received num_tasks=0"),
        ({"num_rows": 9}, "integer of at least 10. Received num_rows=9"),
        ({"noise": -1.0}, "number of at least 0. Received noise=-1.0"),
        ({"num_experts": 6}, "num_experts=6, experts_per_group=4. Make the first a multiple"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        grouped_tasks(**arguments)


def test_unrelated_tasks_leave_the_others_as_they_are():
    world = grouped_tasks(num_tasks=4, num_experts=6, experts_per_group=3, num_rows=400)
    one, three = (add_unrelated(world, num, noise=0.5, seed=3) for num in (1, 3))
    for part, few, many in zip(world[:3], one[:3], three[:3], strict=True):
        np.testing.assert_array_equal(few[0], part[0])
        np.testing.assert_array_equal(many[1][:, :4], part[1])
        np.testing.assert_array_equal(many[1][:, :5], few[1])
        assert many[1].dtype == np.float32
    assert three.groups.tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert three.weights.shape == (7, 9)
    np.testing.assert_array_equal(three.weights[:4, :6], world.weights)
    assert np.argwhere(three.weights[4:]).tolist() == [[0, 6], [1, 7], [2, 8]]
    y = np.concatenate([part[1] for part in three[:3]])[:, 4:]
    np.testing.assert_allclose(y.var(axis=0), 1.25, rtol=0.2)
    assert np.abs(np.corrcoef(y.T) - np.eye(3)).max() < 0.9
    assert not np.allclose(y, np.concatenate([p[1] for p in add_unrelated(world, 3)[:3]])[:, 4:])


def test_rows_of_one_task_are_those_of_the_world():
    world = grouped_tasks(num_tasks=3, num_experts=3, experts_per_group=1, num_rows=200)
    split = task_rows(world, (2, 160, 40), num_test_rows=20, seed=5)
    assert split.schema.task_column == "task"
    assert split.schema.task_names == ("task_0", "task_1", "task_2")
    counts = [part["task"].value_counts().to_dict() for part in (split.train, split.test)]
    assert counts == [{"task_0": 2, "task_1": 160, "task_2": 40}, dict.fromkeys(counts[1], 20)]
    for part, (x, y) in zip((split.train, split.valid, split.test), world[:3], strict=True):
        known = {tuple(row): labels for row, labels in zip(x, y, strict=True)}
        for row in part.itertuples(index=False):
            assert row.label == known[row[:10]][int(row.task.removeprefix("task_"))]
        assert not part.duplicated().any()
    columns = [column.name for column in split.schema.columns]
    assert list(split.train) == [*columns, "task", "label"]


def test_fewer_rows_are_the_first_of_more():
    world = grouped_tasks(num_tasks=2, num_experts=2, experts_per_group=1, num_rows=100)
    few, many = (task_rows(world, num, 5, seed=1).train for num in (3, 7))
    for name in ("task_0", "task_1"):
        assert few[few["task"] == name].values.tolist() == (
            many[many["task"] == name].values[:3].tolist()
        )
    tasks = [many[many["task"] == name]["x_0"].tolist() for name in ("task_0", "task_1")]
    assert tasks[0] != tasks[1]


@pytest.mark.parametrize(
    ("num_rows", "message"),
    [
        (81, "all 80 rows of the world's part. Received num_rows=81, num_test_rows=10"),
        ((0, 1), "between 1 and"),
        ((1, 2, 3), r"one for each of 2 tasks. Received num_rows=\(1, 2, 3\)"),
    ],
)
def test_rows_are_checked(num_rows, message):
    world = grouped_tasks(num_tasks=2, num_experts=2, experts_per_group=1, num_rows=100)
    with pytest.raises(ValueError, match=message):
        task_rows(world, num_rows, num_test_rows=10)
    with pytest.raises(ValueError, match=r"0\. Received num_tasks=-1"):
        add_unrelated(world, -1)
