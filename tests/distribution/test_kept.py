"""Trainings on several replicas go on where they died."""

import pytest

from tests.distribution.processes import ended, found


def differences(folder, num, *names):
    command = ["-m", "tests.distribution.kept_cases", num, folder, *names]
    (result,) = ended([command], folder)
    return found(result)


def check(of_cases):
    # Sums over replicas are of other parts than they were.
    wrong = {name: own for name, own in of_cases.items() if not all(v < 1e-6 for v in own.values())}
    assert wrong == {}


@pytest.mark.slow
def test_all_states_of_replicas_go_on(tmp_path):
    check(differences(tmp_path, 2, "plain", "shared", "files"))


@pytest.mark.slow
def test_a_training_goes_on_on_another_number_of_replicas(tmp_path):
    of_cases = differences(tmp_path, 2, "other", "loaded", "refused")
    assert "Received a DistributedDataset that the strategy has made" in of_cases.pop("refused")
    check(of_cases)


@pytest.mark.slow
def test_a_training_on_three_replicas_goes_on(tmp_path):
    # A third of a sum is no number of float32.
    check(differences(tmp_path, 3, "quick"))
