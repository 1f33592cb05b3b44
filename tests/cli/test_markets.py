"""The demo's models of many markets are what it says they are, and so is what it says."""

import math

import numpy as np
import pytest

from benchmarks import demo_choice, results
from tests.oracles.consoles import shown, use
from tfmoe import extract
from tfmoe.cli import markets, markets_picture, markets_text
from tfmoe.cli.markets import ALONE, DENSE, DSELECT_K, NOISY_TOP_K, SETTINGS, SHARED
from tfmoe.datasets.markets import synthetic_markets
from tfmoe.extraction.extract import Extraction

SIZES = markets.Sizes(num_experts=4, units=(6, 4), epochs=2, batch_size=32)


@pytest.fixture(scope="module")
def world():
    return synthetic_markets(1, num_rows=40, num_test_rows=60, num_products=10, seed=1)


@pytest.fixture(scope="module")
def trained(world):
    """Every model, trained for no time at all."""
    return {name: markets.train(name, world, own, SIZES, seed=1) for name, own in SETTINGS.items()}


@pytest.mark.slow
def test_what_is_measured_is_that_of_the_model(world, trained):
    for one in trained.values():
        assert one.auc.shape == (8,)
        assert one.parameters == one.model.count_params()
        assert np.isfinite(one.valid)
        assert one.seconds > 0
    assert np.mean(markets.aucs(world.split, world.probability)) > 0.8
    scores = trained[SHARED].model.predict(world.split.test, verbose=0)["score"]
    np.testing.assert_allclose(markets.aucs(world.split, scores), trained[SHARED].auc)


@pytest.mark.slow
def test_a_shared_bottom_has_as_many_parameters_as_a_mixture(trained):
    shared, dense = trained[SHARED].parameters, trained[DENSE].parameters
    assert 0.9 * dense < shared <= dense


@pytest.mark.parametrize("layers", [1, 2])
def test_the_widest_bottom_is_the_widest(world, layers):
    def parameters(units):
        one, *two = units
        inputs = 8 + 5
        hidden = inputs * one + one + (one * two[0] + two[0] if two else 0)
        return hidden + 8 * (units[-1] + 1)

    found = markets.equal_units(world.split.schema, layers, SIZES)
    budget = 4 * (13 * 6 + 6 + 6 * 4 + 4) + 4 * 8 + 8 * (4 + 1)
    wider = (found[0] + 1, (found[0] + 1) // 2)[:layers]
    assert parameters(found) <= budget < parameters(wider)


@pytest.mark.slow
def test_multiplications_are_those_of_one_row(trained):
    inputs = 13
    expert = inputs * 6 + 6 * 4
    found = {name: one.multiplications for name, one in trained.items()}
    (own,) = SETTINGS[ALONE].tower
    assert found[ALONE] == inputs * own + own
    one, two = trained[SHARED].model.mixture.bottom.hidden_units
    assert found[SHARED] == inputs * one + one * two + two
    router = inputs * 4 if SETTINGS[DENSE].router == "linear" else 0
    assert found[DENSE] == 4 * (expert + 4) + router + 4
    assert found[NOISY_TOP_K] == 2 * (expert + 4) + 4


@pytest.mark.filterwarnings("ignore:extract keeps more experts")
@pytest.mark.slow
def test_a_standalone_model_has_the_parameters_that_are_told(trained):
    for name, one in trained.items():
        told = markets.standalone(one)
        tasks = one.model.schema.task_names
        if name == ALONE:
            assert np.sum(told) == pytest.approx(one.parameters)
            continue
        for place in (0, 5):
            assert extract(one.model, tasks[place]).count_params() == told[place]


@pytest.mark.slow
def test_only_experts_are_widened(trained):
    for name in (DENSE, NOISY_TOP_K):
        model = markets.widened(name, trained[name].model, SIZES)
        assert model.mixture.experts.hidden_units == markets.WIDE
        assert type(model.mixture.gate) is type(trained[name].model.mixture.gate)
        assert model.mixture.num_experts == 4


@pytest.mark.slow
def test_markets_that_are_alone_share_nothing(world, trained):
    changed = world.split.train.copy()
    own = changed["market"] == world.split.schema.task_names[0]
    changed.loc[own, "bought"] = 1 - changed.loc[own, "bought"]
    split = world.split.__class__(changed, world.split.valid, world.split.test, world.split.schema)
    again = markets.train(ALONE, world._replace(split=split), SETTINGS[ALONE], SIZES, seed=1)
    np.testing.assert_allclose(again.auc[1:], trained[ALONE].auc[1:])
    assert again.auc[0] != trained[ALONE].auc[0]


def test_the_best_epoch_is_one_of_a_gate_that_has_decided():
    epochs = markets._Epochs.__new__(markets._Epochs)
    epochs.losses = [[0.1, 0.2], [0.5, 0.9], [0.6, 0.3]]
    for decided, together, apart in (
        ([True, True, True], [0, 0], [0, 0]),
        ([False, True, True], [2, 2], [1, 2]),
        ([False, False, False], [2, 2], [2, 2]),
    ):
        epochs.decided = decided
        assert epochs.best(apart=False).tolist() == together
        assert epochs.best(apart=True).tolist() == apart


def made_up(name, auc, **more):
    gated = name in (DENSE, DSELECT_K, NOISY_TOP_K)
    given = {
        "name": name,
        "model": None,
        "valid": 0.4,
        "auc": np.array([auc, auc - 0.01]),
        "experts": 2.0 if gated else math.nan,
        "multiplications": 123_456.0,
        "parameters": 345_678,
        "seconds": 12.0,
        "use": use(["north_1", "south_1"], range(2)) if gated else None,
    }
    return markets.Trained(**(given | more))


def compared(**more):
    given = {
        "alone": ALONE,
        "shared": SHARED,
        "dense": DENSE,
        "ours": NOISY_TOP_K,
        "possible": 0.95,
        "sizes": [500.0, 345_678.0, 345_678.0, 700.0, 700.0],
        "time_ratio": 0.5,
        "wide_ratio": 0.25,
        "wide": (256, 128),
        "market": "north_1",
        "extraction": Extraction((1, 2), 700, 345_678, 3e-8),
        "elsewhere": {ALONE: 0.1, DENSE: -0.002},
        "chosen": 2,
        "num_experts": 16,
    }
    return markets_text.Comparison(**(given | more))


def contest(**aucs):
    given = {ALONE: 0.8, SHARED: 0.85, DENSE: 0.9, DSELECT_K: 0.88, NOISY_TOP_K: 0.91} | aucs
    return [made_up(name, auc) for name, auc in given.items()]


def test_the_models_are_whole_at_80_columns():
    text = shown(markets_text.models_table(contest(), compared()))
    assert "…" not in text
    for word in (*SETTINGS, "345,678", "123,456", "2 of 2", "0.9500", "0.9050"):
        assert word in text


def test_what_was_gained_is_said_in_numbers():
    text = " ".join(shown(markets_text.findings(contest(), compared())).split())
    assert (
        "mean AUC of noisy Top-k 0.905: +0.110 against each market alone (better in 2 of 2)" in text
    )
    assert "+0.010 against MMoE" in text
    assert "+0.100 against each alone, -0.002 against MMoE." in text
    assert "a row goes through 2 of 16 experts" in text
    assert "took 0.50 of its time with these small experts, 0.25 with experts of 256 and" in text
    assert "700 of 345,678 parameters; predictions differ by at most 3e-08" in text


def test_what_is_said_of_other_shops_was_measured():
    rows, _ = results.newest("demo")
    measured = {row["name"]: row["auc"] for row in rows}
    for name, told in markets.ON_SIX_SHOPS.items():
        assert told == round(measured[f"{markets.OURS} - {name}"], 3)
    assert {row["seeds"] for row in rows if "seeds" in row} == {6}


def test_the_settings_are_those_that_were_chosen():
    rows, _ = results.newest("demo_choice")
    chosen = {row["name"]: row for row in rows if row["chosen"] == "yes"}
    assert list(chosen) == list(SETTINGS)
    for name, settings in SETTINGS.items():
        for key, value in demo_choice.shown(settings).items():
            assert chosen[name][key] == value
    assert min(markets.SPARSE, key=lambda name: chosen[name]["valid"]) == markets.OURS


def test_what_was_not_gained_is_said_too():
    ahead = contest(MMoE=0.92)
    ahead[1] = ahead[1]._replace(seconds=3.0)
    undecided = ahead[3].use._replace(num_used=np.array([2.0, 5.0]))
    ahead[3] = ahead[3]._replace(use=undecided, experts=3.5)
    said = markets_text.not_gained(ahead, compared())
    assert said[:-1] == [
        "each alone is ahead: fewer parameters for one market.",
        "shared bottom is ahead: trained in 0.25 of the time.",
        "MMoE is ahead: AUC +0.010.",
        "DSelect-k was to select 2 experts a market, and uses 3.5 on average, 5 at most: not all "
        "have decided.",
    ]
    assert "try it first" in said[-1]


def test_the_picture_is_drawn(tmp_path):
    trained, path = contest(), tmp_path / "demo.png"
    found = compared()
    markets_picture.draw(trained, NOISY_TOP_K, ("north", "south"), 0.95, found.sizes, path)
    assert path.stat().st_size > 20_000
    with pytest.raises(FileExistsError):
        markets_picture.draw(trained, NOISY_TOP_K, ("north", "south"), 0.95, found.sizes, path)
