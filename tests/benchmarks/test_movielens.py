"""What the study of MovieLens-1M compares: sizes, trials and claims."""

import math

import numpy as np
import pytest
from keras import ops

import tfmoe
from benchmarks import claims, movielens, movielens_models, search
from benchmarks.gate_choices import DSELECT_K, NOISY_TOP_K, TOP_K
from benchmarks.movielens_models import BOTTOM, COMPUTE, GATES, MMOE, PARAMETERS, SINGLE

INPUTS, EXPERTS, UNITS = 20, 8, 12
SCHEMA = tfmoe.Schema(
    [tfmoe.Numeric(f"x{i}", transform="none") for i in range(INPUTS)],
    [tfmoe.Binary("watch"), tfmoe.Regression("rating", standardize=False)],
)


def model_of(name, schema=SCHEMA, part="whole"):
    space = movielens.space_of(name)
    cell = {"model": name, "experts": EXPERTS, "units": UNITS, "set": part}
    cell |= search.drawn(space, trial=0, number=8)
    structure = movielens_models.structure_of(cell, INPUTS, steps=100)
    return tfmoe.MultiTaskModel(schema, structure, tower_units=(movielens_models.TOWER,))


def parameters(model):
    return model.structure.count_params() + model.towers.count_params()


def test_parameters_are_equal_to_the_mixtures():
    mixture = parameters(model_of(MMOE))
    shared = model_of(PARAMETERS)
    one_more = INPUTS + 1 + 2 * movielens_models.TOWER
    assert mixture - one_more < parameters(shared) <= mixture
    alone = [model_of(SINGLE, SCHEMA.select([task])) for task in SCHEMA.task_names]
    one_more = 2 * (INPUTS + 1 + movielens_models.TOWER)
    assert mixture - one_more < sum(map(parameters, alone)) <= mixture


def test_multiplications_are_counted_and_equal_to_those_of_top_k():
    router, expert, towers = 2 * INPUTS * EXPERTS, INPUTS * UNITS, 2 * (UNITS * 64 + 64)
    assert movielens_models.multiplications(model_of(MMOE), EXPERTS) == (
        router + EXPERTS * expert + 2 * EXPERTS * UNITS + towers
    )
    for name in (TOP_K, NOISY_TOP_K):
        found = movielens_models.multiplications(model_of(name), 4)
        assert found == router + 4 * expert + 2 * 2 * UNITS + towers
    # Two selectors of three bits for each task, and their shares.
    assert movielens_models.multiplications(model_of(DSELECT_K), 2.5) == (
        2 * INPUTS * (2 * 3 + 2) + 2.5 * expert + 2 * 2 * UNITS + towers
    )
    shared = movielens_models.multiplications(model_of(COMPUTE), 0)
    assert found - (INPUTS + 2 * 64) < shared <= found
    wide = EXPERTS * UNITS
    assert movielens_models.multiplications(model_of(BOTTOM), 0) == (
        INPUTS * wide + 2 * (wide * 64 + 64)
    )


@pytest.mark.parametrize("name", [MMOE, TOP_K, DSELECT_K])
def test_only_selected_experts_are_computed_for_the_curve(name):
    assert model_of(name).structure.dispatch == "auto"
    dispatch = model_of(name, part="compute").structure.dispatch
    assert dispatch == ("auto" if name == MMOE else "sparse")


def test_experts_that_a_task_weighs_are_computed():
    split = tfmoe.data.synthetic_ratings(num_rows=200)
    prep = tfmoe.Preprocessor(split.schema).fit(split.train, progress=False)
    gate = GATES[TOP_K].make(2, "linear", 10)
    mixture = tfmoe.MMoE(num_experts=4, hidden_units=(3,), gate=gate)
    model = tfmoe.MultiTaskModel(prep, mixture, tower_units=())
    found = movielens_models._computed(model, split.test)
    features = prep.arrays(split.test, labels=False)
    (record,) = model.forward_pass({k: ops.convert_to_tensor(v) for k, v in features.items()}).aux
    rows = [
        {e for task in row for e in np.flatnonzero(task)}
        for row in ops.convert_to_numpy(record.weights)
    ]
    assert found == pytest.approx(np.mean([len(row) for row in rows]))
    assert 2 <= found <= 4


def test_all_contestants_see_the_same_learning_rates():
    rates = {
        tuple(search.drawn(space, trial, 8)["learning_rate"] for trial in range(8))
        for space in map(movielens.space_of, movielens.MODELS["whole"])
    }
    assert len(rates) == 1
    settings = search.drawn(movielens.space_of(DSELECT_K), 0, 8)
    assert list(settings) == ["learning_rate", "gate_rate", "gamma", "entropy"]


def runs_of(name, losses):
    cell = {"model": name, "set": "whole", "experts": 16, "parameters": 5, "seconds": 3}
    cell |= {"multiplications": 7.0} | search.drawn(movielens.space_of(name), 0, 8)
    measures = dict.fromkeys(movielens.MEASURES)
    return [
        cell | {key: loss for key in measures} | {"valid": loss, "seed": seed}
        for seed, loss in enumerate(losses)
    ]


def test_every_claim_has_its_row():
    rng = np.random.default_rng(0)
    found = {
        name: runs_of(name, i + rng.random(10)) for i, name in enumerate(movielens.MODELS["whole"])
    }
    own = [claim for claim in claims.CLAIMS if claim.study == "movielens"]
    assert len(own) == len(movielens.CLAIMED) == 6

    def verdicts():
        rows = [movielens._row(runs) for runs in found.values()] + movielens.comparisons(found)
        return [case.find(rows).verdict for claim in own for case in claim.cases]

    # The later a contestant, the larger its loss.
    assert verdicts() == [-1] * 6
    # Some of the contestants decide some of the claims; pages say which.
    del found[SINGLE]
    assert sorted(verdicts()) == [-1] * 5 + [0]


def test_some_contestants_are_named():
    known = movielens.MODELS["whole"]
    assert movielens._named(f"Top-k; {PARAMETERS}", known) == ["Top-k", PARAMETERS]
    with pytest.raises(SystemExit, match="Received 'Top-k, MMoE'"):
        movielens._named("Top-k, MMoE", known)


def test_a_run_that_fails_has_no_scores():
    split = tfmoe.data.synthetic_ratings(num_rows=100)
    good = {"watch": np.full(len(split.test), 0.5), "rating": np.zeros(len(split.test))}
    found = movielens_models._measured(split.test, good)
    rated = split.test["watch"] == 1
    assert found["rating_mse"] == pytest.approx((split.test["rating"][rated] ** 2).mean())
    assert found["loss"] == pytest.approx(math.log(2) + found["rating_mse"])
    bad = good | {"rating": np.full(len(split.test), np.nan)}
    assert set(movielens_models._measured(split.test, bad).values()) == {math.inf}
