import json
import math

import numpy as np
import pytest

import tfmoe
from tfmoe import datasets, validation

INTEGERS = [3, np.int64(3), np.int8(3), np.uint32(3)]
NO_INTEGERS = [
    True,
    np.True_,
    3.0,
    np.float64(3),
    "3",
    None,
    (3,),
    np.array([3]),
    math.nan,
    2,
    np.int64(2),
    -3,
]


@pytest.mark.parametrize("value", INTEGERS, ids=repr)
def test_integers_are_pythons_or_numpys_and_become_pythons(value):
    found = validation.integer("Owner", "size", value, 3)
    assert (found, type(found)) == (3, int)
    assert validation.sizes("Owner", "sizes", [value, value]) == (3, 3)
    assert json.dumps(validation.sizes("Owner", "sizes", (value,))) == "[3]"
    validation.check_counts("Owner", size=(value, 3), other=(value, 0))


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_what_is_no_integer_or_too_small_is_refused(value):
    message = r"Owner needs `size` to be an integer of at least 3\. Received size="
    with pytest.raises(ValueError, match=message):
        validation.integer("Owner", "size", value, 3)
    with pytest.raises(ValueError, match=message):
        validation.check_counts("Owner", first=(1, 1), size=(value, 3))
    if value is not None:
        with pytest.raises(ValueError, match="to be None or an integer of at least 3"):
            validation.integer("Owner", "size", value, 3, optional=True)


def test_none_is_for_optional_integers():
    assert validation.integer("Owner", "size", None, 3, optional=True) is None
    validation.check_counts("Owner", optional=True, size=(None, 3))


def test_errors_show_plain_numbers():
    with pytest.raises(ValueError, match=r"Received size=2$|Received size=2\."):
        validation.integer("Owner", "size", np.int64(2), 3)


@pytest.mark.parametrize("values", [3, "ab", None, {3: 4}, np.int64(3), (0,), (1, 2.0), [True]])
def test_sizes_are_sequences_of_integers(values):
    with pytest.raises(ValueError, match=r"Owner needs `units` to be .*Received units="):
        validation.sizes("Owner", "units", values)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)], ids=repr)
def test_numbers_become_floats(value):
    found = validation.number("Owner", "rate", value, least=2, most=2)
    assert (found, type(found)) == (2.0, float)


@pytest.mark.parametrize(
    ("value", "bounds", "rule"),
    [
        (True, {}, "a finite number"),
        ("2", {}, "a finite number"),
        (None, {}, "a finite number"),
        (math.nan, {}, "a finite number"),
        (-math.inf, {"optional": True}, "a finite number or None"),
        (10**400, {}, "a finite number"),
        (0, {"above": 0}, "a finite number above 0"),
        (-1, {"least": 0}, "a finite number of at least 0"),
        (1.5, {"least": -1, "most": 1}, "a finite number of at least -1 and of at most 1"),
    ],
)
def test_numbers_are_finite_and_within_their_bounds(value, bounds, rule):
    with pytest.raises(ValueError, match=rf"Owner needs `rate` to be {rule}\. Received rate="):
        validation.number("Owner", "rate", value, **bounds)
    assert validation.number("Owner", "rate", None, optional=True) is None


def test_choices_and_the_nearest_one():
    validation.check_choice("Owner", "by", "size", ("size", "even", None))
    with pytest.raises(ValueError, match=r"from \['size', 'even'\]. Received by='sise'. Did you"):
        validation.check_choice("Owner", "by", "sise", ("size", "even"))
    with pytest.raises(ValueError, match=r"Received by=7\.$"):
        validation.check_choice("Owner", "by", 7, ("size", "even"))
    assert validation.did_you_mean("Num_Experts", ["num_expert", "dim"]) == (
        " Did you mean 'num_expert'?"
    )
    assert validation.did_you_mean("xyz", ["dim"]) == validation.did_you_mean(3, ["dim"]) == ""


def test_plain_has_nothing_of_numpy():
    given = [np.int64(1), (np.float32(0.5), "a"), np.array([1, 2]), np.str_("b"), None]
    assert validation.plain(given) == [1, (0.5, "a"), [1, 2], "b", None]
    assert [type(one) for one in validation.plain(given)] == [int, tuple, list, str, type(None)]


_SCHEMA = tfmoe.Schema([tfmoe.Numeric("a", transform="none")], [tfmoe.Binary("y")])
_PUBLIC = [
    *(getattr(datasets, name) for name in datasets.__all__),
    tfmoe.Schema,
    tfmoe.Schema.infer,
    tfmoe.Numeric,
    tfmoe.Categorical,
    tfmoe.MultiCategorical,
    tfmoe.Sequence,
    tfmoe.Binary,
    tfmoe.Regression,
    tfmoe.Multiclass,
    tfmoe.Preprocessor,
    *(getattr(tfmoe.Preprocessor(_SCHEMA), n) for n in ("fit", "dataset", "arrays", "batches")),
    *(getattr(tfmoe.Preprocessor(_SCHEMA), n) for n in ("merge", "transform", "save", "load")),
    tfmoe.TaskMixer,
    tfmoe.export,
]


@pytest.mark.parametrize("called", _PUBLIC, ids=lambda called: called.__qualname__)
def test_unknown_arguments_are_refused_by_name(called):
    with pytest.raises(TypeError, match="argument 'unknown_argument'"):
        called(unknown_argument=1)
