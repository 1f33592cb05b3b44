"""What papers claim, or we do, in a sentence each, and where in the rows the answer stands.

No figure is written here: `verdicts.py` takes them from the rows, published ones too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from benchmarks.primary import Primary
from benchmarks.verdicts import (
    Apart,
    Count,
    Difference,
    Evidence,
    Largest,
    Less,
    OfPart,
    Paired,
    Ratio,
    Shares,
    Single,
)


@dataclass(frozen=True)
class Claim:
    """A sentence that rows can bear out or not.

    Attributes:
        paper: whose claim it is, one of `PAPERS`; "superseded" if its study is.
        study: the benchmark whose rows decide.
        text: the claim, as if it were true.
        cases: what decides.
    """

    paper: str
    study: str
    text: str
    cases: Sequence[Evidence]


# In the order of the index: each has a table there.
PAPERS = ("dselect-k", "mmoe", "task-aware", "mod-squad", "package", "superseded")

SETS = ("grouped", "census")
TASKS = (16, 32, 64, 128)
WIDE = "shared bottom, one layer"


def _static(rival, number=TASKS, ours="DSelect-k", key="score", less=True, form="static"):
    return [
        Difference(f"{tasks} tasks", ours, rival, {"tasks": tasks, "set": form}, key, less)
        for tasks in number
    ]


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


def _robust(ours, rivals, numbers=(16,)):
    def case(where, number, rival):
        parts = [where, *([f"{number} added"] * (number != 16))]
        return ", ".join([*parts, *([rival] * (len(rivals) > 1))])

    return [
        Paired(
            case(where, number, rival),
            {"name": f"{ours} loses less than {rival}", "set": where, "unrelated": number},
            {"name": ours, "set": where, "unrelated": number},
            {"name": rival, "set": where, "unrelated": number},
            "change",
        )
        for where, number, rival in product(SETS, numbers, rivals)
    ]


def _squad(test, key, forms=("perceptrons", "transformer"), alone=False):
    return [
        Paired(
            f"{where}, {form}",
            {"name": test, "set": where, "form": form},
            {"name": "with the loss", "set": where, "form": form},
            None if alone else {"name": "without", "set": where, "form": form},
            key,
        )
        for form, where in product(forms, SETS)
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


def _correlated():
    """The six claims that `correlation` named before its first run was recorded."""
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
    family = [
        Difference(rival, "MMoE", rival, {"set": where, "correlation": 0.5})
        for where, rival, _ in tests
    ]
    return tuple(
        Claim(
            "mmoe",
            "correlation",
            f"Tasks of correlation 0.5, {where}: MMoE has less error than {words}.",
            [Primary(number, family)],
        )
        for number, (where, _, words) in enumerate(tests)
    )


def _census(ours, published=None):
    return [
        Paired(
            main,
            {"name": f"{ours} beats shared bottom", "set": main},
            {"name": ours, "set": main},
            {"name": "shared bottom", "set": main},
            "main_auc",
            published,
        )
        for main in ("income", "college")
    ]


def _movielens(ours, rival):
    names = (f"{ours} has less loss than {rival}", ours, rival)
    parts = [{"name": name, "set": "whole"} for name in names]
    # Some contestants, or the curve alone, may have been run.
    return [OfPart(Paired("both tasks", *parts, "loss"), parts[0])]


def _conflict(ours, rival):
    return [
        Paired(
            words,
            {"name": f"{ours} has less error than {rival}", "set": world},
            {"name": ours, "set": world},
            {"name": rival, "set": world},
        )
        for words, world in (
            ("half in conflict", "conflict 0.5"),
            ("no conflict", "conflict 0"),
        )
    ]


def _sparse(name, ways):
    return [
        Apart(
            words,
            {"name": name, "way": "sparse", "jit": "False", **where},
            {"name": name, "way": "dense", "jit": "False", "experts": 64},
        )
        for words, where in ways.items()
    ]


def _primary(study, few, where, words):
    """The six claims that a study of gates named before its first run was recorded."""
    ours = f"DSelect-k, at most {few}"
    tests = (
        ("adam", "Top-k", "score"),
        ("adam", "noisy Top-k", "score"),
        ("adam", "noisy Top-k", "f1"),
        ("sgd", "Top-k", "score"),
        ("sgd", "noisy Top-k", "score"),
        ("sgd", "noisy Top-k", "f1"),
    )
    family = [
        Difference(rival, ours, rival, {**where, "set": optimizer}, key, less=key == "score")
        for optimizer, rival, key in tests
    ]
    names = {"Top-k": "plain Top-k", "noisy Top-k": "Top-k with learned noise"}
    says = {"score": "has less error than", "f1": "selects the right experts better (F1) than"}
    learned = {"adam": "Adam", "sgd": "SGD"}
    return tuple(
        Claim(
            "dselect-k",
            study,
            f"{words}, {learned[optimizer]}: DSelect-k kept to {few} experts {says[key]} "
            f"{names[rival]}.",
            [Primary(number, family)],
        )
        for number, (optimizer, rival, key) in enumerate(tests)
    )


DSELECT_K = (
    *_primary("synthetic", 4, {"tasks": 128}, "Static gates, 128 tasks in groups"),
    *_primary("regions", 2, {}, "Gates by row, 16 tasks whose experts differ by region"),
    Claim(
        "dselect-k",
        "multimnist",
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
    *(
        Claim(
            "dselect-k",
            "movielens",
            "MovieLens-1M whole, sixteen experts, two selected: DSelect-k has less loss than "
            f"{words}.",
            _movielens("DSelect-k", rival),
        )
        for rival, words in (
            ("Top-k", "Top-k"),
            ("noisy Top-k", "Top-k with learned noise"),
            ("shared bottom, equal compute", "a shared bottom of equal compute"),
        )
    ),
    Claim(
        "dselect-k",
        "census",
        "Census-Income: DSelect-k has a higher AUC than a shared bottom.",
        _census("DSelect-k"),
    ),
    Claim(
        "dselect-k",
        "selectors",
        "Experts that are no power of two: folding the spare codes, as we do, finds the best pair "
        "of experts more often than the authors' penalty.",
        [
            Shares(
                f"{experts} experts",
                {"name": "fold", "experts": experts, "entropy_reg": 0.1},
                {"name": "penalty", "experts": experts, "entropy_reg": 0.1},
                "found",
                100,
            )
            for experts in (3, 5, 6, 7, 9, 12, 17, 24, 31)
        ],
    ),
)

MMOE = (
    *_correlated(),
    Claim(
        "mmoe",
        "census",
        "Census-Income: MMoE has a higher AUC than a shared bottom, mean over the seeds.",
        _census("MMoE", "paper_mean"),
    ),
    *(
        Claim(
            "mmoe",
            "movielens",
            f"MovieLens-1M whole, sixteen experts: MMoE has less loss than {words}.",
            _movielens("MMoE", rival),
        )
        for rival, words in (
            ("shared bottom, equal parameters", "a shared bottom of equal parameters"),
            ("single tasks", "single tasks"),
        )
    ),
    Claim(
        "mmoe",
        "conflict",
        "Tasks that conflict for half of the users: MMoE has less error than a shared bottom of "
        "equal width.",
        _conflict("MMoE, 4 of 4", "shared bottom of 16")[:1],
    ),
    Claim(
        "mmoe",
        "conflict",
        "A shared bottom has less error than single-task models of the same total width.",
        _conflict("shared bottom of 16", "single tasks, 8 each"),
    ),
)

NOISY = "noisy Top-k"
DEMO = (
    Claim(
        "package",
        "demo",
        "In a shop of 64 markets, a sparse mixture of two experts a row has a higher AUC than a "
        "network for each market, and than a shared bottom of as many parameters.",
        [
            Difference(rival, NOISY, rival, {}, "auc", less=False, below=0.05)
            for rival in ("each alone", "shared bottom")
        ],
    ),
    Claim(
        "package",
        "demo",
        "There it has a higher AUC than all sixteen experts together, an MMoE.",
        [Difference("MMoE", NOISY, "MMoE", {}, "auc", less=False, below=0.05)],
    ),
    Claim(
        "dselect-k",
        "demo",
        "In a shop of 64 markets, one task a row, DSelect-k has a higher AUC than noisy Top-k.",
        [Difference(NOISY, "DSelect-k", NOISY, {}, "auc", less=False, below=0.05)],
    ),
)


def _each(study, names, sentence, cases):
    """A claim of the package for each name, which the sentence begins with."""
    # "A, doubly robust, learns"
    subjects = {name: f"{name}," if "," in name else name for name in names}
    return tuple(
        Claim("package", study, f"{subject} {sentence}", cases(name))
        for name, subject in subjects.items()
    )


def _beats(name, rival, where, case, key="score", words=None):
    """That one is better than its rival in a set; `words` is what the row of the test is called."""
    test = words or f"{name} has less error than {rival}"
    parts = [{"name": part, "set": where} for part in (test, name, rival)]
    return Paired(case, *parts, key)


# Named before the first run was recorded; the study has more.
WEIGHTINGS = ("uncertainty", "dwa", "famo", "pcgrad", "upgrad", "dualbalancing")
TWO_GROUPS = "six regressions in two groups"
OTHERS = (
    *_each(
        "structures",
        ("PLE", "AdaTT", "MMoE", "MMoE, static DSelect-k"),
        "has less error than a shared bottom of equal parameters, where groups of tasks conflict.",
        lambda name: [_beats(name, "shared bottom", "rotated", "groups that conflict")],
    ),
    *_each(
        "scenarios",
        ("PEPNet", "STAR", "MMoE, EPNet"),
        "has a higher AUC within scenarios than MMoE with the scenario as a column.",
        lambda name: [_beats(name, "MMoE", "age", "by age", "within_auc", f"{name} beats MMoE")],
    ),
    *_each(
        "funnel",
        ("ESCM2, inverse propensities", "ESCM2, doubly robust"),
        "learns P(buy | click) of all rows better than clicked rows alone do, where the model is "
        "too small (divergence).",
        lambda name: [
            _beats(
                *(name, "naive", "too small", "too small a model", "divergence"),
                words=f"{name}, beats naive",
            )
        ],
    ),
    *_each(
        "weighting",
        WEIGHTINGS,
        "has less error than fixed weights of the tasks, tuned or all equal.",
        lambda name: [
            _beats(
                *(name, rival, "grouped", f"{words}, {TWO_GROUPS}"),
                words=f"{name} has less error than {words}",
            )
            for rival, words in (("fixed", "tuned fixed weights"), ("equal", "equal weights"))
        ],
    ),
)

MOVIELENS = (
    Claim(
        "package",
        "movielens",
        "MovieLens-1M whole, sixteen experts, two selected: Top-k with learned noise has less loss "
        "than a shared bottom of equal compute.",
        _movielens(NOISY, "shared bottom, equal compute"),
    ),
)

RANKING = tuple(
    Claim(
        "package",
        "ranking",
        f"A {structure} of two tasks behind a ranking model's body is at most 0.001 of AUC behind "
        "torch-rechub's model of one.",
        [
            _beats(
                *(structure, "torch-rechub", body, body),
                words=f"{structure} is not behind torch-rechub",
            )
            for body in ("DeepFM", "DCN-v2", "DIN", "BST", "AutoInt", "FiBiNET")
        ],
    )
    for structure in ("shared bottom", "MMoE")
)

TUNED = (
    Claim(
        "package",
        "tuned",
        "Settings that `tfmoe tune` found in 20 trials have less loss on test rows than the "
        "defaults.",
        [
            _beats("tuned", "defaults", name, name, words="tuned is better than defaults")
            for name in ("census income", "ml-latest-small")
        ],
    ),
)


def _conflicting():
    """The six claims that `conflicting_tasks` named before its first run was recorded."""
    bottom = "shared bottom, equal compute"
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
    family = [
        Difference(
            f"{bottom}{way}",
            f"task-aware{way}",
            f"{bottom}{way}",
            {"set": stage, "question": question},
            key,
            less=key == "change" or stage == "rotated",
        )
        for ((question, way, key), _), stage in product(asked, stages)
    ]
    words = [f"{stages[stage]}: {text}." for (_, text), stage in product(asked, stages)]
    return tuple(
        Claim("task-aware", "conflicting_tasks", text, [Primary(number, family)])
        for number, text in enumerate(words)
    )


ADDED, ROUTING = "task-aware, added after", "task-aware"
TASK_AWARE = (
    *_conflicting(),
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
        _robust(ROUTING, ("shared bottom",)),
    ),
    Claim(
        "task-aware",
        "robust",
        "Sixteen unrelated tasks cost the others less than in a shared bottom of one wide layer, "
        "or in a dense MMoE.",
        _robust(ROUTING, (WIDE, "dense MMoE")),
    ),
    Claim(
        "task-aware",
        "robust",
        "One or four unrelated tasks cost the others less than in a shared bottom of two layers.",
        _robust(ROUTING, ("shared bottom",), (1, 4)),
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

MOD_SQUAD = (
    Claim(
        "mod-squad",
        "squad",
        "The mutual-information loss matches experts to tasks: it raises their mutual information "
        "(as a share of the most there can be).",
        _squad("higher information", "information"),
    ),
    Claim(
        "mod-squad",
        "squad",
        "With the loss a task needs fewer of the experts to keep its quality (share of them).",
        _squad("fewer experts needed", "needed"),
    ),
    Claim(
        "mod-squad",
        "squad",
        "With the loss a mixture of perceptrons scores better (error, AUC).",
        _squad("better score", "score", ("perceptrons",)),
    ),
    Claim(
        "mod-squad",
        "squad",
        "With the loss the transformer scores better (error, AUC).",
        _squad("better score", "score", ("transformer",)),
    ),
    Claim(
        "mod-squad",
        "squad",
        "A standalone model of one task keeps its quality. (Shown is what it loses; the effect is "
        "what is left of the 2 % of error or 0.002 of AUC that were allowed.)",
        _squad("standalone keeps quality", "standalone_loss", alone=True),
    ),
    Claim(
        "mod-squad",
        "robust",
        "Sixteen unrelated tasks cost the others less in Mod-Squad than in a shared bottom of two "
        "layers.",
        _robust("Mod-Squad", ("shared bottom",)),
    ),
    Claim(
        "mod-squad",
        "robust",
        "Sixteen unrelated tasks cost the others less in Mod-Squad than in a shared bottom of one "
        "wide layer, or in a dense MMoE.",
        _robust("Mod-Squad", (WIDE, "dense MMoE")),
    ),
)

PEERS = ({"name": "deepctr"}, {"name": "rechub"})
PACKAGE = (
    Claim(
        "package",
        "step",
        "tfmoe trains more rows a second than the same model elsewhere, in float32 (times).",
        [
            Ratio(words, {"name": name}, "tfmoe_ratio", ("ratio_q1", "ratio_q3"))
            for words, name in (
                ("DeepCTR", "deepctr"),
                ("torch-rechub", "torch-rechub"),
                ("written by hand in Keras", "dense list"),
            )
        ],
    ),
    Claim(
        "package",
        "step",
        "Training in bfloat16 is faster, on a processor that multiplies it in tiles.",
        [
            Ratio(
                "rows a second in float32, times those in bfloat16",
                {"name": "tfmoe, bfloat16"},
                "tfmoe_ratio",
                ("ratio_q1", "ratio_q3"),
                less=True,
            )
        ],
    ),
    Claim(
        "package",
        "peers",
        "MovieLens-1M, small experts: tfmoe trains more rows a second (times).",
        [
            Ratio(words, {"name": name}, "train_ratio")
            for words, name in (("DeepCTR", "deepctr"), ("torch-rechub", "rechub"))
        ],
    ),
    Claim(
        "package",
        "peers",
        "MovieLens-1M: tfmoe predicts more rows a second, from raw ids (times).",
        [
            Ratio(words, {"name": name}, "predict_ratio")
            for words, name in (("DeepCTR", "deepctr"), ("torch-rechub", "rechub"))
        ],
    ),
    Claim(
        "package",
        "peers",
        "MovieLens-1M: tfmoe scores better than DeepCTR and torch-rechub.",
        [
            Single(words, {"name": "tfmoe"}, PEERS, key)
            for words, key in (("AUC of watch", "watch_auc"), ("error of rating", "rating_rmse"))
        ],
    ),
    Claim(
        "package",
        "peers",
        "MovieLens-1M: tfmoe takes no more memory than DeepCTR and torch-rechub (MB, vocabularies "
        "and data included).",
        [
            Less(words, {"name": "tfmoe"}, {"name": name}, "peak_mb")
            for words, name in (("DeepCTR", "deepctr"), ("torch-rechub", "rechub"))
        ],
    ),
    Claim(
        "package",
        "sparse",
        "A layer that computes only the two experts selected of 64 takes less time than one that "
        "computes all (times a dense layer of two).",
        _sparse(
            "layer 256-128",
            {routing: {"routing": routing, "experts": 64} for routing in ("balanced", "skewed")},
        ),
    ),
    Claim(
        "package",
        "sparse",
        "A whole model of 64 experts takes less time where only those selected are computed "
        "(times).",
        [
            Ratio(
                words,
                {"name": f"model, {words}", "way": "sparse"},
                quartiles=("q1", "q3"),
                less=True,
            )
            for words in (
                "top-k, training",
                "top-k, prediction",
                "DSelect-k, converged, training",
                "DSelect-k, converged, prediction",
            )
        ],
    ),
    Claim(
        "package",
        "embedding",
        "Under LazyAdam a step slows down less with the rows of a table than under Keras's Adam "
        "(10,000,000 rows against 10,000).",
        [
            Apart(
                "times the step with 10,000",
                {"name": "tfmoe", "table_rows": 10_000_000},
                {"name": "Keras", "table_rows": 10_000_000},
            )
        ],
    ),
    Claim(
        "package",
        "extract",
        "A standalone model of two of 64 experts predicts as the whole does (largest difference, "
        "below 1e-5).",
        [Largest("eight tasks", {"experts": 2}, "difference", 1e-5)],
    ),
    Claim(
        "package",
        "extract",
        "A standalone model is smaller and faster than the whole (share of the whole's, the worst "
        "of eight tasks).",
        [
            Largest(words, {"experts": 2}, key, 1.0)
            for words, key in (
                ("weights", "parameters_ratio"),
                ("file", "file_ratio"),
                ("call on one row", "latency_1"),
                ("call on 4,096 rows", "latency_4096"),
            )
        ],
    ),
    Claim(
        "package",
        "pipeline",
        "Fitting a Preprocessor is faster than counting with pandas (times).",
        [
            Ratio("from Parquet", {"name": "parquet fit"}),
            Ratio("from CSV", {"name": "csv fit"}),
        ],
    ),
    Claim(
        "package",
        "pipeline",
        "Encoded batches come faster than the bare Arrow read into NumPy (times).",
        [
            Ratio("from Parquet", {"name": "parquet dataset"}),
            Ratio("from CSV", {"name": "csv dataset"}),
        ],
    ),
    Claim(
        "package",
        "thresholds",
        "Of two ways to compute the same, the one chosen is never slower by more than 5 % (and by "
        "its first quartile).",
        [Count("choices", {}, "verdict", lambda verdict: verdict == "ok")],
    ),
    Claim(
        "package",
        "defaults",
        "With nothing set, a model is as good as the better of a linear model and a plain network: "
        "within 0.01 of AUC, and 3 % of the error.",
        [
            Count("tables, AUC", {"name": "tfmoe"}, "auc_gap", lambda gap: gap >= -0.01),
            Count("tables, error", {"name": "tfmoe"}, "rmse_gap", lambda gap: gap <= 1.03),
        ],
    ),
)

# Of studies that another has superseded.
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
)

# Named before the first run was recorded; six cases, of which p is by Holm's correction.
MANY_TASKS = tuple(
    Claim(
        paper,
        "many_tasks",
        f"On real tables with more than a hundred tasks DSelect-k scores higher than {words}.",
        [
            OfPart(
                _beats("DSelect-k", rival, where, case, words=f"DSelect-k beats {rival}"),
                {"set": where},
            )
            for where, case in (
                ("delicious", "128 tags, AUC"),
                ("school", "139 schools, explained share of the variance"),
            )
        ],
    )
    for paper, rival, words in (
        ("dselect-k", "Top-k", "plain Top-k"),
        ("package", "shared bottom", "a shared bottom as large as experts and towers"),
        ("package", "wide shared bottom", "a shared bottom that costs a row what MMoE does"),
    )
)

CLAIMS = (
    *DSELECT_K,
    *MMOE,
    *TASK_AWARE,
    *MOD_SQUAD,
    *PACKAGE,
    *DEMO,
    *OTHERS,
    *MANY_TASKS,
    *MOVIELENS,
    *RANKING,
    *TUNED,
    *SUPERSEDED,
)
