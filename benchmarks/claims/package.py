"""What we claim of the package itself, but for what studies named beforehand."""

from benchmarks.claims.claim import Claim
from benchmarks.verdicts import Apart, Count, Difference, Largest, Less, Ratio, Single

NOISY = "noisy Top-k"
# Of two cores each: one that multiplies bfloat16 in tiles (AMX), and one of AVX2 alone.
XEON, EPYC = ({"processor": name} for name in ("Intel(R) Xeon(R) Processor", "AMD EPYC"))
MACHINES = {"Xeon": XEON, "EPYC": EPYC}
PEERS = ({"name": "deepctr"}, {"name": "rechub"})


def _sparse(name, ways):
    return [
        Apart(
            f"{words}, {machine}",
            {"name": name, "way": "sparse", "jit": "False", **where, **processor},
            {"name": name, "way": "dense", "jit": "False", "experts": 64, **processor},
        )
        for machine, processor in MACHINES.items()
        for words, where in ways.items()
    ]


PACKAGE = (
    Claim(
        "package",
        "step",
        "tfmoe trains more rows a second than the same model elsewhere, in float32 (times).",
        [
            Ratio(
                f"{words}, {machine}",
                {"name": name, **processor},
                "tfmoe_ratio",
                ("ratio_q1", "ratio_q3"),
            )
            for machine, processor in MACHINES.items()
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
                {"name": "tfmoe, bfloat16", **XEON},
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
                f"{words}, {machine}",
                {"name": f"model, {words}", "way": "sparse", **processor},
                quartiles=("q1", "q3"),
                less=True,
            )
            for machine, processor in MACHINES.items()
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
        [
            Count(f"choices, {machine}", processor, "verdict", lambda verdict: verdict == "ok")
            for machine, processor in MACHINES.items()
        ],
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
)
