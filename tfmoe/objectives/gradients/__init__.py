"""How the gradients of several tasks become one: functions of their inner products.

With the tasks' gradients as rows of `J` `(t, n)`, each takes the Gram matrix `J J^T` `(t, t)` and
returns the weights `w` `(t,)` of the combination `J^T w`. A task whose gradient is 0 is absent: it
gets weight 0 and changes no other's.
"""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
