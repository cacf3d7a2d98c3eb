"""How programs are compiled that run a handful of times."""

FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For programs that run a handful of times: compiling them is all they cost."""
