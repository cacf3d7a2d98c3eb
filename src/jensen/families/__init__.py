"""Approximations q on R^D, one family a file.

A family is a recipe without arrays (``FullRank()``); its `start` makes the approximation (`DenseGaussian`), a pytree whose
array leaves *are* the variational parameters. Every approximation offers

    noise(rng, n) -> (n, D)              parameter-free
    transport(noise) -> (z, log q(z))    noise is an argument, so that fixed draws and stochastic gradients are one objective
    log_prob(z), entropy(), sample(rng, n), mean, cov, sd, params

written in the array-API namespace of its own leaves: NumPy on the host, JAX inside compiled code.
"""
