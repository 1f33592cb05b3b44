"""Which thresholds a processor gets, and how they are set."""

import dataclasses
import inspect

import pytest

from tfmoe.compute import thresholds
from tfmoe.compute.thresholds import KINDS, VARIABLE, Thresholds, current, kind_of_processor, use

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu sse2 avx avx2 avx512f avx512bw avx512_vnni amx_bf16 amx_tile
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu sse2 avx avx2 avx512f avx512bw avx512_vnni amx_bf16 amx_tile
"""
EPYC = """processor\t: 0
model name\t: AMD EPYC 7401P 24-Core Processor
flags\t\t: fpu sse2 avx f16c avx2 sha_ni
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes sha1 sha2 asimdhp\n"


@pytest.fixture(autouse=True)
def as_at_the_start(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    yield
    use()


@pytest.mark.parametrize(
    ("cpuinfo", "kind"),
    [
        (XEON, "avx512"),
        (EPYC, "other"),
        (XEON.replace("avx512_vnni", ""), "other"),
        (XEON.replace("avx512f", ""), "other"),
        (ARM, "other"),
        ("", "other"),
    ],
    ids=["xeon", "epyc", "no-vnni", "no-avx512", "arm", "not-linux"],
)
def test_the_kind_follows_from_the_flags(cpuinfo, kind):
    assert kind_of_processor(cpuinfo) == kind


def test_the_kind_of_this_machine_is_used():
    assert kind_of_processor() in KINDS
    assert current() == KINDS[kind_of_processor()]


def test_an_unknown_processor_runs_experts_one_after_the_other():
    assert KINDS["other"].large_kernel is None
    assert KINDS["other"] == Thresholds()


def test_every_threshold_is_described():
    for field in dataclasses.fields(Thresholds):
        # From Python 3.13 on docstrings have no indentation.
        assert f"\n    {field.name}: " in inspect.cleandoc(Thresholds.__doc__)


def test_thresholds_are_set_for_the_process_or_a_block():
    before = current()
    use(block_cost=7)
    assert current() == dataclasses.replace(before, block_cost=7)
    with use("other", spans=[0, 8]) as inside:
        assert inside is current()
        assert inside == dataclasses.replace(KINDS["other"], spans=(0, 8))
        with use(Thresholds(most_unrolled=3)):
            assert current() == Thresholds(most_unrolled=3)
        assert current() is inside
    assert current().block_cost == 7
    use(most_unrolled=2)
    assert current() == dataclasses.replace(before, most_unrolled=2)
    use()
    assert current() == before


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("", {}),
        ("large_kernel=null", {"large_kernel": None}),
        ("large_kernel = none, block_cost=60", {"large_kernel": None, "block_cost": 60}),
        ("break_even=1.5", {"break_even": 1.5}),
        ("spans=[0, 4, 8] dense_rows=5", {"spans": (0, 4, 8), "dense_rows": 5}),
        ('{"large_kernel": 100, "blocks": [1, 2, 3]}', {"large_kernel": 100, "blocks": (1, 2, 3)}),
    ],
)
def test_the_environment_sets_them(text, changes, monkeypatch):
    monkeypatch.setenv(VARIABLE, text)
    assert current() == dataclasses.replace(KINDS[kind_of_processor()], **changes)
    assert use(most_unrolled=5).__enter__() == dataclasses.replace(
        KINDS[kind_of_processor()], **{**changes, "most_unrolled": 5}
    )


def test_the_environment_names_a_kind(monkeypatch):
    monkeypatch.setenv(VARIABLE, "avx512")
    assert current() == KINDS["avx512"]
    monkeypatch.setenv(VARIABLE, "other block_cost=1")
    assert current() == dataclasses.replace(KINDS["other"], block_cost=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("block_costs=4", "Thresholds are most_unrolled.*Received block_costs=4"),
        ("block_cost=fast", "a number, a list of numbers, or null. Received block_cost=fast"),
        ("block_cost=1.5", "`block_cost` is an integer >= 0. Received block_cost=1.5"),
        ("zen", r"kinds of processor \['avx512', 'other'\]. Received 'zen'"),
        ("other zen", "`name=value` pairs.*Received 'other zen'"),
        ("{block_cost: 4}", "JSON object"),
        ("large_kernel=-1", "an integer >= 0 or None. Received large_kernel=-1"),
    ],
)
def test_what_is_wrong_in_the_environment_is_told(text, message, monkeypatch):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match=f"{message}.*{VARIABLE}="):
        current()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": (1, 2)}, "`blocks` is a list of 3 integers >= 1. Received blocks=.1, 2."),
        ({"blocks": (0, 1, 2)}, "integers >= 1"),
        ({"spans": ()}, "`spans` is a list of integers >= 0. Received spans="),
        ({"break_even": 0}, "`break_even` is a number >= 1. Received break_even=0"),
        ({"dense_rows": True}, "Received dense_rows=True"),
        ({"dense_rows": None}, "Received dense_rows=None"),
        ({"large": 1}, "Received large=1. See tfmoe.compute.thresholds.Thresholds"),
    ],
)
def test_a_wrong_threshold_is_told_and_changes_nothing(changes, message):
    before = current()
    with pytest.raises(ValueError, match=message):
        use(**changes)
    assert current() is before
    assert thresholds.current() == before
