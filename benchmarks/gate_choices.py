"""The gates that are compared, and what of each is searched."""

from typing import NamedTuple

import keras
from keras.optimizers.schedules import PolynomialDecay

from benchmarks.search import log_uniform, one_of
from tfmoe.gates.comet import CometGate
from tfmoe.gates.dselect_k import DSelectKGate
from tfmoe.gates.gumbel import GumbelGate
from tfmoe.gates.softmax import SoftmaxGate
from tfmoe.gates.top_k import TopKGate

SOFTMAX, TOP_K, NOISY_TOP_K, GUMBEL = "Softmax", "Top-k", "noisy Top-k", "Gumbel"
DSELECT_K, COMET = "DSelect-k", "COMET"


class Choice(NamedTuple):
    """A gate that is compared.

    Attributes:
        make: function `(k, router, steps, **settings)` to the gate; `k` experts are
            selected, `steps` are those after which a schedule has done its course.
        space: dict from the settings to functions that draw them, see `search`.
    """

    make: object
    space: dict


def _softmax(k, router, steps, temperature):
    return SoftmaxGate(temperature=temperature, router=router)


def _top_k(k, router, steps, noisy):
    return TopKGate(num_nonzeros=k, noisy=noisy, router=router)


def _gumbel(k, router, steps, temperature):
    """Its temperature falls to a twentieth, and stays there."""
    cooling = PolynomialDecay(temperature, steps, temperature / 20, power=3)
    return GumbelGate(num_nonzeros=k, temperature=cooling, router=router)


def _smooth(gate, space):
    """DSelect-k or COMET. The weight of the entropy rises from 0."""

    def make(k, router, steps, gamma, entropy):
        weight = PolynomialDecay(0.0, steps, entropy)
        return gate(num_nonzeros=k, gamma=gamma, entropy_reg=weight, router=router)

    return Choice(make, space)


# A bit starts within gamma / 100 and stands still beyond gamma / 2: with so few steps a
# smaller gamma would decide at once, and by chance. Gates decide from an entropy of about 0.03.
OWN = {"gamma": log_uniform(1.0, 30.0), "entropy": log_uniform(1e-3, 0.3)}


def gates(space):
    """A `Choice` for each gate.

    Args:
        space: what of DSelect-k and COMET is searched, `OWN`.
    """
    return {
        SOFTMAX: Choice(_softmax, {"temperature": log_uniform(0.2, 2.0)}),
        TOP_K: Choice(_top_k, {"noisy": one_of(False, True)}),
        GUMBEL: Choice(_gumbel, {"temperature": log_uniform(0.5, 5.0)}),
        DSELECT_K: _smooth(DSelectKGate, space),
        COMET: _smooth(CometGate, space),
    }


def gate_of(choices, cell, k, router, steps):
    """The gate of a run, whose settings stand in its cell under their names."""
    choice = choices[cell["model"]]
    return choice.make(k, router, steps, **{name: cell[name] for name in choice.space})


class _WithBias:
    """A gate whose scores have a bias, which starts at 0."""

    def score_parts(self):
        return [part._replace(bias=part.bias or "zeros") for part in super().score_parts()]


@keras.saving.register_keras_serializable("benchmarks")
class _SoftmaxWithBias(_WithBias, SoftmaxGate):
    pass


@keras.saving.register_keras_serializable("benchmarks")
class _TopKWithBias(_WithBias, TopKGate):
    pass


def biased(gate):
    """The same gate with a bias in its linear router, if it has none; those of DSelect-k and COMET
    have one."""
    kind = {SoftmaxGate: _SoftmaxWithBias, TopKGate: _TopKWithBias}.get(type(gate))
    return gate if kind is None else kind.from_config(gate.get_config())
