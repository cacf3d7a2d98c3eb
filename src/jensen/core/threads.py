"""The one place where threads are decided: compiled programs use all cores, the small linear algebra around them one.

NumPy's BLAS threads spin while they wait, next to XLA's own: on two cores that makes the host's D x D algebra several times
slower, and its last digits depend on the number of cores.
"""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any


@cache
def _controller() -> Any:
    """What limits the threads of the libraries loaded by now; to look for them takes 5 ms, which some fits do not."""
    # Compiled programs call the LAPACK that SciPy brings along.
    import scipy.linalg.cython_lapack  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_blas_thread() -> AbstractContextManager[object]:
    """Context in which NumPy's linear algebra runs on one thread; the caller's setting comes back afterwards."""
    return _controller().limit(limits=1, user_api="blas")
