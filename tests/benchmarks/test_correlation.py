"""The contestants of `correlation` are as large, and cost, what is said."""

import math

import keras
import numpy as np
import pytest

from benchmarks import claims, correlation
from benchmarks import correlation_models as models
from benchmarks.correlation_models import MULTI_GATE, ONE_GATE, SHARED, SINGLE, WIDE

SIZES = [(2, 4), (2, 16), (8, 4), (8, 16)]


@pytest.mark.parametrize("name", correlation.MODELS)
def test_sizes_are_those_of_the_models(name):
    tasks, units = 3, 5
    width = models.width_of(name, tasks, units)
    model = models.build(name, tasks, units)
    assert model.output_shape == (None, tasks)
    assert model.count_params() == models.parameters(name, tasks, width)
    # All kernels, which a row with all labels meets once each, and the mix of the experts.
    kernels = [weight.shape for weight in model.weights if "bias" not in weight.path]
    mix = models.gates(name, tasks) * models.EXPERTS * width
    products = sum(math.prod(shape) for shape in kernels) + mix
    assert products == models.multiplications(name, tasks, width)


@pytest.mark.parametrize(("tasks", "units"), SIZES)
@pytest.mark.parametrize("name", [SINGLE, SHARED])
def test_parameters_are_those_of_experts_and_towers(name, tasks, units):
    mixture = models.parameters(ONE_GATE, tasks, units) - models.FEATURES * models.EXPERTS
    width = models.width_of(name, tasks, units)
    found = [models.parameters(name, tasks, width + more) for more in (0, 1)]
    assert found[0] <= mixture < found[1]


@pytest.mark.parametrize(("tasks", "units"), SIZES)
def test_the_wide_bottom_costs_what_mmoe_does(tasks, units):
    width = models.width_of(WIDE, tasks, units)
    found = [models.multiplications(WIDE, tasks, width + more) for more in (0, 1)]
    assert found[0] <= models.multiplications(MULTI_GATE, tasks, units) < found[1]
    assert width < models.MOST_UNITS - 1


def test_a_run_that_diverged_counts_as_the_mean_label():
    model = models.build(SHARED, 2, 4)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, models.FEATURES)).astype("float32"), rng.normal(size=(9, 2))
    assert models.error(model, (x, y)) == pytest.approx(np.mean((model(x) - y) ** 2), rel=1e-5)
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    assert models.error(model, (x, y)) == pytest.approx(np.mean((y - y.mean(axis=0)) ** 2))
    keras.backend.clear_session()


def test_claims_are_of_parts_that_are_run():
    own = [claim for claim in claims.CLAIMS if claim.study == "correlation"]
    assert len(own) == 6
    family = own[0].cases[0].family
    assert [claim.cases[0].number for claim in own] == list(range(6))
    parts = {correlation.name_of(tasks, units) for tasks, units in SIZES}
    for test in family:
        assert test.where["set"] in parts
        assert test.where["correlation"] == correlation.SEARCHED
        assert {test.ours, test.rival} <= set(correlation.MODELS)
        assert test.less


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """Those of a study whose runs are made up."""
    found = []

    def one_run(cell):
        found.append(cell)
        rng = np.random.default_rng([cell["seed"], len(cell["model"])])
        sizes = {"parameters": 2, "multiplications": 3}
        return {"score": rng.random(), "valid": 1.0} | sizes

    monkeypatch.setattr(correlation, "one_run", one_run)
    return found


def test_other_correlations_have_the_settings_that_were_searched(cells, monkeypatch):
    monkeypatch.setattr(correlation, "MODELS", (MULTI_GATE, SHARED))
    rows = correlation.run(False, tasks="2", units="4")
    assert len(cells) == 2 * (6 + 2 + 3 * 20)
    final = {
        (cell["model"], cell["correlation"], cell["learning_rate"])
        for cell in cells
        if cell["seed"] < 20
    }
    assert len(final) == 6
    assert len({(model, rate) for model, _, rate in final}) == 2
    assert [row["correlation"] for row in rows] == [*[0.5] * 3, *[0.9] * 3, *[1.0] * 3]
    assert sum("seeds" in row for row in rows) == 6


def test_a_whole_study_decides_its_claims(cells, tmp_path):
    rows = correlation.run(False)
    assert len(cells) == 4 * 5 * (6 + 2 + 3 * 20)
    own = [claim for claim in claims.CLAIMS if claim.study == "correlation"]
    assert all(" against " in claim.cases[0].find(rows).ours for claim in own)
    correlation.draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
