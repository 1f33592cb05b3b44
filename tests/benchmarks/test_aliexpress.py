"""What the study of AliExpress asks for, and what its rows are made of."""

import numpy as np
import pytest

from benchmarks import aliexpress, results


def test_it_asks_for_the_files():
    with pytest.raises(SystemExit, match="--data PATH, a folder that holds AliExpress_NL"):
        aliexpress.run(quick=False)
    with pytest.raises(ValueError, match="Received markets='DE'"):
        aliexpress.run(quick=False, data="somewhere", markets="NL, DE")


def test_a_row_is_the_mean_of_its_seeds_and_no_run_is_made_twice(tmp_path, monkeypatch):
    made = []

    def one_run(data, cell):
        made.append((cell["set"], cell["model"], cell["seed"]))
        scores = {"click_auc": 0.7 + cell["seed"] / 100, "conversion_auc": 0.8}
        return scores | {"parameters": 3, "test_rows": 5}

    monkeypatch.setattr(aliexpress, "one_run", one_run)
    monkeypatch.setattr(results, "RUN_COMMITS", {"aliexpress": set()})
    aliexpress.run(quick=False, data="somewhere", markets="NL", seeds=2)
    rows = aliexpress.run(quick=False, data="somewhere", markets="NL,US", seeds=3)
    assert len(made) == len(set(made)) == 2 * 3 * len(aliexpress.MODELS)
    assert [(row["set"], row["name"]) for row in rows] == [
        (market, model) for market in ("NL", "US") for model in aliexpress.MODELS
    ]
    row = rows[3]
    np.testing.assert_allclose([row["click_auc"], row["conversion_auc"]], [0.71, 0.8])
    np.testing.assert_allclose(row["click_auc_error"], 0.01 / 3**0.5)
    assert row["conversion_auc_error"] == 0.0
    assert (row["name"], row["published_click_auc"], row["seeds"]) == ("MMoE", 0.7234, 3)
    assert rows[5]["published_click_auc"] is None
    assert aliexpress.headline(rows).startswith("best_in_NL=single_tasks click_auc=0.7100 ")


def test_the_best_epoch_counts():
    class Model:
        stop_training, weights = False, None

        def get_weights(self):
            return self.weights

        def set_weights(self, weights):
            self.weights = weights

    best = aliexpress.Best(None, patience=2)
    best.set_model(Model())
    # The mean of both tasks decides.
    scores = [(0.6, 0.6), (0.5, 0.8), (0.7, 0.5), (0.6, 0.6)]
    stopped = []
    for epoch, (click, conversion) in enumerate(scores):
        best.model.weights = epoch
        best.score = lambda found=(click, conversion): dict(
            zip(aliexpress.TASKS, found, strict=True)
        )
        best.on_epoch_end(epoch)
        stopped.append(best.model.stop_training)
    best.on_train_end()
    assert stopped == [False, False, False, True]
    assert (best.model.weights, best.scores["conversion"]) == (1, 0.8)
