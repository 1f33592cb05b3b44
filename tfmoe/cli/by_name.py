"""Mixtures and gates by the names they have on the command line."""

from functools import partial

from tfmoe.gates.balanced import BalancedTopKGate
from tfmoe.gates.comet import CometGate
from tfmoe.gates.dselect_k import DSelectKGate
from tfmoe.gates.entmax import EntmaxGate
from tfmoe.gates.gumbel import GumbelGate
from tfmoe.gates.relu import ReLUGate
from tfmoe.gates.softmax import SoftmaxGate
from tfmoe.gates.sparsemax import SparsemaxGate
from tfmoe.gates.task_aware import TaskAwareGate
from tfmoe.gates.top_k import TopKGate
from tfmoe.structures.mmoe import MMoE, OMoE
from tfmoe.structures.mod_squad import ModSquad
from tfmoe.structures.shared_bottom import SharedBottom


def mixture_by_name(mixture, gate, num_experts, num_nonzeros, hidden_units):
    """A mixture's recipe from what `tfmoe train` was told.

    Args:
        mixture: str, such as `"mmoe"`.
        gate: str, such as `"top-k"`, or None for the mixture's own.
        num_experts: int.
        num_nonzeros: int, for gates that take a number.
        hidden_units: str, integers with commas between them.

    Raises:
        ValueError: if it does not know one of them.
    """
    counted = {
        "top-k": TopKGate,
        "task-aware": TaskAwareGate,
        "balanced-top-k": BalancedTopKGate,
        "dselect-k": DSelectKGate,
        "comet": CometGate,
        "gumbel": GumbelGate,
        "relu": ReLUGate,
    }
    # They note what training selects, for `tfmoe extract --by usage`.
    noted = {"num_nonzeros": num_nonzeros, "usage_decay": 0.95}
    gates = {name: partial(kind, **noted) for name, kind in counted.items()}
    gates |= {
        "softmax": SoftmaxGate,
        "sparsemax": SparsemaxGate,
        "entmax": EntmaxGate,
    }
    gate = gate or ("top-k" if mixture == "mod-squad" else "softmax")
    if gate not in gates or mixture not in ("mmoe", "omoe", "mod-squad", "shared-bottom"):
        raise ValueError(
            "Choose --mixture from mmoe, omoe, mod-squad, shared-bottom and --gate from "
            f"{', '.join(gates)}. Received --mixture {mixture} --gate {gate}."
        )
    if not all(units.strip().isdigit() for units in hidden_units.split(",")):
        raise ValueError(
            "--hidden-units takes integers with commas between them, such as 256,128. "
            f"Received --hidden-units {hidden_units}."
        )
    units = tuple(int(units) for units in hidden_units.split(","))
    if mixture == "shared-bottom":
        return SharedBottom(hidden_units=units)
    if mixture == "mod-squad":
        return ModSquad(dim=units[-1], num_experts=num_experts, gate=gates[gate]())
    kind = MMoE if mixture == "mmoe" else OMoE
    return kind(num_experts=num_experts, hidden_units=units, gate=gates[gate]())
