"""What README and the pages say was measured is what the last recorded rows say."""

import json

import pytest

from tests.docs.pages import DOCS, ROOT

XEON, EPYC = "Intel(R) Xeon(R) Processor", "AMD EPYC"


def last(study, processor=None):
    """The rows of a benchmark's last run, on a processor if it says which."""
    path = ROOT / "benchmarks" / "results" / f"{study}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if processor in (None, row["run"]["processor"])]
    return [row for row in rows if row["run"] == rows[-1]["run"]]


def by_name(study, processor=None):
    return {row["name"]: row for row in last(study, processor)}


def faster(contestant, rival):
    return STEP[contestant]["rows_per_s"] / STEP[rival]["rows_per_s"]


STEP, PEERS = by_name("step", XEON), by_name("peers")
ON_EPYC = {name: row["tfmoe_ratio"] for name, row in by_name("step", EPYC).items()}
MEMORY = {name: PEERS[name]["peak_mb"] for name in ("tfmoe", "deepctr", "rechub")}
TABLES = {(row["name"], row["table_rows"]): row["ratio"] for row in last("embedding")}
SPARSE = {(row["name"], row["way"]): row["ratio"] for row in last("sparse", XEON)}
ALONE = [row for row in last("extract") if row["name"] != "whole"]
TIMES = [row[key] for row in ALONE for key in ("latency_1", "latency_4096")]

README = [
    *(
        f"| {STEP[name]['tfmoe_ratio']:.2f} times | {ON_EPYC[name]:.2f} times | "
        f"{PEERS[peer]['train_ratio']:.2f} times | "
        f"{PEERS[peer]['predict_ratio']:.2f} times | "
        f"**{MEMORY['tfmoe'] / MEMORY[peer]:.1f} times as much** |"
        for name, peer in (("deepctr", "deepctr"), ("torch-rechub", "rechub"))
    ),
    f"| {STEP['dense list']['tfmoe_ratio']:.2f} times | {ON_EPYC['dense list']:.2f} times | | | |",
    f"trains wide experts {faster('tfmoe, bfloat16', 'deepctr'):.1f} times as fast as DeepCTR and "
    f"{faster('tfmoe, bfloat16', 'torch-rechub'):.1f} times as fast as torch-rechub",
    f"{faster('tfmoe, bfloat16', 'dense list, bfloat16'):.2f} times as fast as the model by hand",
    f"takes {TABLES['tfmoe', 10_000_000]:.1f} times as long as with 10,000; with Keras's Embedding "
    f"and Adam {TABLES['Keras', 10_000_000]:.0f} times",
    f"takes {SPARSE['model, top-k, training', 'sparse']:.2f} of the time",
    f"have {ALONE[0]['parameters_ratio']:.2f} of the parameters and take {min(TIMES):.2f} to "
    f"{max(TIMES):.1f}",
    f"{MEMORY['tfmoe']:,.0f} MB against {MEMORY['deepctr']:.0f} and {MEMORY['rechub']:.0f} in",
]
SPARSE_PAGE = [
    f"| {SPARSE[f'model, {gate}, training', 'sparse']:.2f} | "
    f"{SPARSE[f'model, {gate}, prediction', 'sparse']:.2f} |"
    for gate in ("top-k", "DSelect-k, converged")
]


@pytest.mark.parametrize(
    ("page", "said"),
    [
        *((ROOT / "README.md", said) for said in README),
        *((DOCS / "guides" / "sparse_compute.md", said) for said in SPARSE_PAGE),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_figure_is_that_of_the_rows(page, said):
    assert said in " ".join(page.read_text(encoding="utf-8").split())


def test_the_auc_of_movielens_is_the_lowest_and_the_error_the_least():
    auc = {name: PEERS[name]["watch_auc"] for name in MEMORY}
    error = {name: PEERS[name]["rating_rmse"] for name in MEMORY}
    assert max(auc.values()) - min(auc.values()) < 0.002
    assert min(auc, key=auc.get) == min(error, key=error.get) == "tfmoe"
