"""The one place where threads are decided: compiled programs use all cores, the small linear algebra around them one.

NumPy's BLAS threads spin while they wait, next to XLA's own: on two cores that makes the host's D x D algebra several times
slower, and its last digits depend on the number of cores.
"""

from contextlib import AbstractContextManager


def one_blas_thread() -> AbstractContextManager[object]:
    """Context in which NumPy's linear algebra runs on one thread; the caller's setting comes back afterwards."""
    # Compiled programs call the LAPACK that SciPy brings along; only libraries that are loaded by now can be limited.
    import scipy.linalg.cython_lapack  # noqa: F401
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")
