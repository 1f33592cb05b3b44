import pytest

import tfmoe
from tfmoe.schema.links import link_of

COLUMNS = [tfmoe.Numeric("age")]
CLICK = tfmoe.Binary("click")


def schema(*tasks, **options):
    return tfmoe.Schema(COLUMNS, [CLICK, *tasks], **options)


@pytest.mark.parametrize(
    ("link", "written"),
    [
        ("esmm", "esmm"),
        (tfmoe.ESCM2("ips"), "escm2-ips"),
        (tfmoe.AITM(), "aitm"),
        (tfmoe.DBMTL(), "dbmtl"),
        (
            tfmoe.ESCM2("dr", weight=0.5, floor=0.1),
            {"kind": "ESCM2", "method": "dr", "weight": 0.5, "whole_weight": 1.0, "floor": 0.1},
        ),
    ],
)
def test_a_file_says_the_link(link, written, tmp_path):
    given = schema(tfmoe.Binary("buy", given="click", link=link))
    assert given.to_dict()["tasks"][1]["link"] == written
    assert tfmoe.Schema.from_json(given.to_json()) == given
    given.save(tmp_path / "schema.yaml")
    assert tfmoe.Schema.load(tmp_path / "schema.yaml") == given


def test_esmm_is_the_default():
    assert tfmoe.Binary("buy", given="click").link == tfmoe.ESMM()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.Binary("buy", link="esmm"), "hangs by `link` on the task"),
        (lambda: tfmoe.Binary("buy", given="buy"), "is `given` another binary task"),
        (lambda: tfmoe.Binary("buy", given="click", where="click"), "Leave one of them out"),
        (lambda: tfmoe.Binary("buy", given="click", link="esm"), "takes as `link` one of"),
        (lambda: link_of("x", {"kind": "AITM", "floor": 1}), "the link AITM has the fields"),
        (lambda: schema(tfmoe.Binary("buy", given="view")), "the binary tasks are"),
        (
            lambda: schema(tfmoe.Regression("stars"), tfmoe.Binary("buy", given="stars")),
            "the binary tasks are",
        ),
        (
            lambda: schema(tfmoe.Binary("a", given="b"), tfmoe.Binary("b", given="a")),
            "a given b given a",
        ),
        (
            lambda: schema(tfmoe.Binary("buy", given="click"), tfmoe.Regression("buy_given_click")),
            "which is also one of task 'buy'",
        ),
        (
            lambda: schema(tfmoe.Binary("buy", given="click"), task_column="market"),
            "none of another to be given",
        ),
        (
            lambda: tfmoe.Schema(
                COLUMNS,
                [tfmoe.Binary("click", where="seen"), tfmoe.Binary("buy", given="click")],
            ),
            "needs the probability of 'click' in all rows",
        ),
        (
            lambda: tfmoe.Schema(
                COLUMNS,
                [tfmoe.Binary("click", loss="pairwise"), tfmoe.Binary("buy", given="click")],
                group="user",
            ),
            "which makes none. Take another loss",
        ),
        (lambda: tfmoe.Schema(COLUMNS, [tfmoe.Binary("a", served=False)]), "At least one task is"),
    ],
)
def test_what_cannot_be_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_selected_task_keeps_those_that_it_is_given():
    whole = schema(
        tfmoe.Binary("buy", given="click"),
        tfmoe.Binary("like"),
        tfmoe.Binary("refund", given="buy"),
    )
    part = whole.select("refund")
    assert part.task_names == ("click", "buy", "refund")
    assert part.served_names == ("refund", "refund_given_buy")
    assert whole.select(["click", "refund"]).served_names == ("click", "refund", "refund_given_buy")
