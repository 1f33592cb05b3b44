"""What papers claim, or we do, in a sentence each, and where in the rows the answer stands.

No figure is written here: `verdicts.py` takes them from the rows, published ones too.
"""

from benchmarks.claims.claim import PAPERS, Claim
from benchmarks.claims.dselect_k import DSELECT_K
from benchmarks.claims.learning import LEARNING
from benchmarks.claims.mmoe import MMOE
from benchmarks.claims.mod_squad import MOD_SQUAD
from benchmarks.claims.named_first import NAMED_FIRST
from benchmarks.claims.package import PACKAGE
from benchmarks.claims.superseded import SUPERSEDED
from benchmarks.claims.task_aware import TASK_AWARE

CLAIMS = (
    *NAMED_FIRST,
    *DSELECT_K,
    *MMOE,
    *TASK_AWARE,
    *MOD_SQUAD,
    *PACKAGE,
    *LEARNING,
    *SUPERSEDED,
)

__all__ = ["CLAIMS", "PAPERS", "Claim"]
