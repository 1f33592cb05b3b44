"""Which tests are run: what is slow, and how many cases of a test."""

from pathlib import Path
from types import SimpleNamespace

import pytest


class Item:
    """A test's case, as a plugin sees it."""

    def __init__(self, nodeid, **marks):
        self.nodeid, self.path, self.marks = nodeid, Path(nodeid.split("::")[0]), dict(marks)

    def get_closest_marker(self, name):
        return SimpleNamespace(args=self.marks[name]) if name in self.marks else None

    def add_marker(self, name):
        self.marks[name] = ()


def cases(name, number, **marks):
    return [Item(f"tests/test_x.py::{name}[{case}]", **marks) for case in range(number)]


@pytest.fixture
def chosen(request):
    """What is left of items with `--most-cases`, and what it says of the rest."""
    path = str(Path(__file__).parents[2] / "conftest.py")
    plugin = request.config.pluginmanager.get_plugin(path)

    def choose(items, most=None):
        left, out = list(items), []
        hook = SimpleNamespace(pytest_deselected=lambda items: out.extend(items))
        config = SimpleNamespace(option=SimpleNamespace(most_cases=most), hook=hook)
        plugin.pytest_collection_modifyitems(config, left)
        return left, out

    return choose


def slow(items):
    return [item for item in items if "slow" in item.marks]


def test_all_but_some_cases_of_a_quick_test_are_slow(chosen):
    items, out = chosen([*cases("a", 5, quick=(2,)), *cases("b", 3), Item("notebooks/c.ipynb::")])
    assert len(items) == 9
    assert out == []
    assert len(slow(items[:5])) == 3
    assert slow(items[5:]) == items[8:]


def test_of_slow_cases_no_more_than_a_number_stay(chosen):
    """Quick ones stay all, and so does what is to be run whole."""
    quick, one, two = cases("a", 5, quick=(2,)), cases("b", 4, slow=()), cases("c", 3)
    whole = cases("d", 4, slow=(), whole=())
    items, out = chosen([*quick, *one, *two, *whole], most=2)
    assert len(slow(items)) == 2 + 2 + 4
    assert len(items) == len(quick) - 1 + 2 + len(two) + len(whole)
    assert {*items} | {*out} == {*quick, *one, *two, *whole}
    assert not {*items} & {*out}
    assert {*out} <= {*slow(quick), *one}


def test_the_same_cases_stay_in_every_run(chosen):
    names = [[item.nodeid for item in chosen(cases("a", 30, slow=()), most=3)[0]] for _ in range(2)]
    assert names[0] == names[1]
    other = [item.nodeid[-3:] for item in chosen(cases("b", 30, slow=()), most=3)[0]]
    assert other != [name[-3:] for name in names[0]]
