"""Claims that a study named before its first run was recorded: at most six, judged together."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from benchmarks.claims.claim import Claim
from benchmarks.primary import Primary
from benchmarks.verdicts import Difference

SELECTING, NOISY = "DSelect-k", "noisy Top-k"
PARAMETERS, COMPUTE = "shared bottom, equal parameters", "shared bottom, equal compute"


class Test(NamedTuple):
    """A test of a family: the claim it decides, alone or with others of the same words.

    Attributes:
        paper: whose claim it is.
        text: the claim, as if it were true.
        difference: `Difference`.
    """

    paper: str
    text: str
    difference: Difference


def named(study: str, tests: Sequence[Test]) -> tuple[Claim, ...]:
    """The claims of a study, whose tests are corrected together."""
    family = [test.difference for test in tests]
    cases: dict[tuple[str, str], list[Primary]] = {}
    for number, test in enumerate(tests):
        cases.setdefault((test.paper, test.text), []).append(Primary(number, family))
    return tuple(Claim(paper, study, text, found) for (paper, text), found in cases.items())


def _gates(study, few, where, words):
    """A study of gates on made-up tasks."""
    ours = f"{SELECTING}, at most {few}"
    tests = (
        ("adam", "Top-k", "score"),
        ("adam", NOISY, "score"),
        ("adam", NOISY, "f1"),
        ("sgd", "Top-k", "score"),
        ("sgd", NOISY, "score"),
        ("sgd", NOISY, "f1"),
    )
    names = {"Top-k": "plain Top-k", NOISY: "Top-k with learned noise"}
    says = {"score": "has less error than", "f1": "selects the right experts better (F1) than"}
    learned = {"adam": "Adam", "sgd": "SGD"}
    return named(
        study,
        [
            Test(
                "dselect-k",
                f"{words}, {learned[optimizer]}: DSelect-k kept to {few} experts {says[key]} "
                f"{names[rival]}.",
                Difference(rival, ours, rival, {**where, "set": optimizer}, key, key == "score"),
            )
            for optimizer, rival, key in tests
        ],
    )


def _correlation():
    paper, more, scarce = (
        f"{tasks} tasks, experts of {units}" for tasks, units in ((2, 16), (8, 16), (8, 4))
    )
    tests = (
        (paper, "OMoE", "one gate for both (OMoE)"),
        (paper, "shared bottom", "a shared bottom of equal parameters"),
        (more, "OMoE", "one gate for all (OMoE)"),
        (scarce, "shared bottom", "a shared bottom of equal parameters"),
        (scarce, "wide shared bottom", "a shared bottom of equal compute"),
        (scarce, "single tasks", "single tasks of equal parameters"),
    )
    return named(
        "correlation",
        [
            Test(
                "mmoe",
                f"Tasks of correlation 0.5, {where}: MMoE has less error than {words}.",
                Difference(rival, "MMoE", rival, {"set": where, "correlation": 0.5}),
            )
            for where, rival, words in tests
        ],
    )


def _movielens():
    chosen = "MovieLens-1M whole, sixteen experts, two selected"
    every = "MovieLens-1M whole, sixteen experts"
    tests = (
        ("dselect-k", f"{chosen}: DSelect-k has", SELECTING, "Top-k", "Top-k"),
        ("dselect-k", f"{chosen}: DSelect-k has", SELECTING, NOISY, "Top-k with learned noise"),
        *(
            (paper, f"{chosen}: {words} has", ours, COMPUTE, "a shared bottom of equal compute")
            for paper, words, ours in (
                ("dselect-k", SELECTING, SELECTING),
                ("package", "Top-k with learned noise", NOISY),
            )
        ),
        ("mmoe", f"{every}: MMoE has", "MMoE", PARAMETERS, "a shared bottom of equal parameters"),
        ("mmoe", f"{every}: MMoE has", "MMoE", "single tasks", "single tasks"),
    )
    return named(
        "movielens",
        [
            Test(
                paper,
                f"{subject} less loss than {words}.",
                Difference("both tasks", ours, rival, {"set": "whole"}, "loss"),
            )
            for paper, subject, ours, rival, words in tests
        ],
    )


def _many_tasks():
    rivals = (
        ("dselect-k", "Top-k", "plain Top-k"),
        ("package", "shared bottom", "a shared bottom as large as experts and towers"),
        ("package", "wide shared bottom", "a shared bottom that costs a row what MMoE does"),
    )
    tables = (
        ("delicious", "128 tags, AUC"),
        ("school", "139 schools, explained share of the variance"),
    )
    return named(
        "many_tasks",
        [
            Test(
                paper,
                f"On real tables with more than a hundred tasks DSelect-k scores higher than "
                f"{words}.",
                Difference(case, SELECTING, rival, {"set": where}, less=False),
            )
            for (paper, rival, words), (where, case) in product(rivals, tables)
        ],
    )


def _multimnist():
    rivals = {
        "Top-k": "Top-k",
        NOISY: "Top-k with learned noise",
        PARAMETERS: "a shared bottom of equal parameters",
        COMPUTE: "a shared bottom of equal compute",
        "single tasks": "single tasks of equal parameters",
    }
    return named(
        "multimnist",
        [
            Test(
                "dselect-k",
                f"Multi-MNIST, six convolutional experts: DSelect-k is more accurate than {words}.",
                Difference("mean of both digits", SELECTING, rival, {}, "accuracy", less=False),
            )
            for rival, words in rivals.items()
        ],
    )


def _conflicting():
    stages = {
        "permuted": "Groups that see MNIST's pixels each in its own order",
        "rotated": "Groups that see inputs each turned otherwise",
    }
    asked = (
        (
            ("transfer", "", "score"),
            "a task of 64 labels does better among the others in a task-aware mixture than in a "
            "shared bottom of equal compute",
        ),
        (
            ("unseen", ", frozen", "score"),
            "a new task of 64 labels does better by a task-aware mixture that stays frozen than by "
            "a frozen shared bottom of equal compute with a new tower",
        ),
        (
            ("robust", "", "change"),
            "sixteen unrelated tasks cost the others less in a task-aware mixture than in a shared "
            "bottom of equal compute",
        ),
    )
    return named(
        "conflicting_tasks",
        [
            Test(
                "task-aware",
                f"{words}: {text}.",
                Difference(
                    f"{COMPUTE}{way}",
                    f"task-aware{way}",
                    f"{COMPUTE}{way}",
                    {"set": stage, "question": question},
                    key,
                    less=key == "change" or stage == "rotated",
                ),
            )
            for ((question, way, key), text), (stage, words) in product(asked, stages.items())
        ],
    )


def _transformers():
    shared, plain = "shared, equal compute", "plain mixture"
    largest, most = {"tasks": 12, "rows": 4000}, "Census-Income, 12 tasks of 4,000 rows"
    rivals = {
        "single tasks": "single-task transformers of as many steps together",
        shared: "a shared one of equal compute",
        plain: "the same without the mutual-information loss",
    }
    growths = (
        (shared, "12 tasks", "4 tasks", "a shared one is larger with 12 tasks than with 4"),
        (shared, "4,000 rows", "600 rows", "a shared one is larger with 4,000 rows than with 600"),
        (plain, "12 tasks", "4 tasks", "one without the loss is larger with 12 tasks than with 4"),
    )
    tests = [
        Test(
            "mod-squad",
            f"{most}: a Mod-Squad transformer has a higher AUC than {words}.",
            Difference("mean of the tasks", "Mod-Squad", rival, largest, less=False),
        )
        for rival, words in rivals.items()
    ]
    tests += [
        Test(
            "mod-squad",
            f"Census-Income: its advantage over {words}.",
            Difference(
                "AUC of the first four tasks",
                f"advantage over {rival}, {more}",
                f"advantage over {rival}, {fewer}",
                {},
                less=False,
            ),
        )
        for rival, more, fewer, words in growths
    ]
    return named("transformers", tests)


NAMED_FIRST = (
    *_gates("synthetic", 4, {"tasks": 128}, "Static gates, 128 tasks in groups"),
    *_gates("regions", 2, {}, "Gates by row, 16 tasks whose experts differ by region"),
    *_multimnist(),
    *_movielens(),
    *_many_tasks(),
    *_correlation(),
    *_conflicting(),
    *_transformers(),
)
