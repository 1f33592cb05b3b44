"""Multi-MNIST's pictures, and how large its contestants are."""

import gzip
import math

import keras
import numpy as np
import pytest

from benchmarks import claims, multimnist, multimnist_models, multimnist_pictures
from benchmarks.gate_choices import DSELECT_K, TOP_K
from benchmarks.multimnist_models import COMPUTE, PARAMETERS, SINGLE

EXPERTS = 3


def built(name):
    """A contestant, and its cell."""
    settings = {"gate_rate": 0.5, "gamma": 3.0, "entropy": 0.1}
    cell = {"model": name, "experts": EXPERTS, "learning_rate": 0.01} | settings
    return multimnist_models.build(cell, 10), cell


def test_a_networks_size_is_counted():
    network = multimnist_models.network(3, 16)
    network.build((None, multimnist_models.SIZE, multimnist_models.SIZE, 1))
    assert network.count_params() == multimnist_models.parameters(3, 16)
    found = 0
    for layer in network.layers:
        if hasattr(layer, "kernel"):
            places = layer.output.shape[1:3] if isinstance(layer, keras.layers.Conv2D) else ()
            found += math.prod(layer.kernel.shape) * math.prod(places)
    assert found == multimnist_models.products(3, 16)


def test_parameters_are_equal_to_the_mixtures():
    (mixture, _), _ = built(TOP_K)
    for name in (PARAMETERS, SINGLE):
        (model, none), _ = built(name)
        assert none is None
        width, units = multimnist_models.size_of(name, EXPERTS)
        # A unit more: weights from the convolutions, of both layers, to the towers.
        one_more = 72 * width + 2 * units + 2 + 2 * multimnist_models.TOWER
        one_more *= 2 if name == SINGLE else 1
        assert mixture.count_params() - one_more < model.count_params() <= mixture.count_params()


def test_the_bottom_of_equal_compute_costs_what_top_k_does():
    cell = {"model": TOP_K, "experts": EXPERTS}
    gated = multimnist_models.multiplications(cell, {"used": 2.0, "computed": 3.0})
    width, units = multimnist_models.size_of(COMPUTE, EXPERTS)
    shared = multimnist_models.multiplications(cell | {"model": COMPUTE}, {})
    one_more = 72 * width + 2 * units + 1 + 2 * multimnist_models.TOWER
    assert gated - one_more < shared <= gated


def test_experts_with_weight_are_counted():
    (model, mixture), cell = built(TOP_K)
    x = np.random.default_rng(0).random((5, 36, 36, 1)).astype("float32")
    digits = np.zeros((5, 2), "int32")
    use = multimnist_models.use_of(mixture, multimnist_pictures.Pictures(x, digits))
    assert use["used"] == 2
    assert 2 <= use["computed"] <= 3
    assert multimnist_models.use_of(None, None) == {}
    cell |= {"epochs": 1, "batch_size": 5}
    multimnist_models.train(model, mixture, cell, (x, digits), (x, digits))
    assert np.isfinite(model.predict(x, verbose=0)).all()


def test_claims_are_of_contestants(tmp_path, monkeypatch):
    def one_run(quick, cell):
        rng = np.random.default_rng([cell["seed"], len(cell["model"])])
        sizes = {"multiplications": 3.0, "parameters": 2, "valid": 1.0}
        return dict.fromkeys(("accuracy", *multimnist_models.PLACES), rng.random()) | sizes

    monkeypatch.setattr(multimnist, "one_run", one_run)
    rows = multimnist.run(False)
    own = [claim for claim in claims.CLAIMS if claim.study == "multimnist"]
    assert len(own) == 5
    assert all(" against " in claim.cases[0].find(rows).ours for claim in own)
    assert multimnist.headline(rows).startswith(f"dselect_k={rows[0]['accuracy']:.4f} top_k=")
    assert rows[0]["name"] == DSELECT_K
    multimnist.draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_pictures_are_two_digits_of_a_part_added_up():
    rng = np.random.default_rng(0)
    images, digits = rng.integers(1, 256, size=(7, 28, 28)), np.arange(7)
    found = multimnist_pictures.combined(images, digits, seed=1, num=7)
    assert found.x.shape == (14, 36, 36, 1)
    assert sorted(found.y[:, 0]) == np.repeat(digits, 2).tolist()
    for x, (first, second) in zip(found.x[..., 0], found.y, strict=True):
        assert first != second
        whole = np.zeros((36, 36))
        whole[:28, :28] += images[first] / 255
        whole[8:, 8:] += images[second] / 255
        np.testing.assert_allclose(x, whole, atol=1e-6)
    few = multimnist_pictures.combined(images, digits, seed=1, num=2)
    first = few.y[:, 0].tolist()
    assert first[0] == first[1] != first[2] == first[3]
    assert set(first) != {0, 1}  # any two, not the first two


def test_mnist_is_read_from_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TFMOE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="four files of MNIST"):
        multimnist_pictures.read("train")
    (tmp_path / "mnist").mkdir()
    images = np.arange(2 * 784).astype("uint8").reshape(2, 28, 28)
    for kind, head, data in (("images-idx3", 16, images), ("labels-idx1", 8, [[3, 4]])):
        text = bytes(head) + np.array(data, "uint8").tobytes()
        (tmp_path / "mnist" / f"train-{kind}-ubyte.gz").write_bytes(gzip.compress(text))
    read, digits = multimnist_pictures.read("train")
    assert np.array_equal(read, images)
    assert digits.tolist() == [3, 4]
