"""How programs are compiled that run a handful of times."""

FAST_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
"""For programs that run a handful of times: compiling them is all they cost, and takes a quarter of the time like this."""
