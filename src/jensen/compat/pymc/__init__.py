"""PyMC's variational interface on jensen's engines: ``import jensen.compat.pymc as vi``, and ``vi.fit`` for ``pm.fit``.

Names, arguments, defaults and the meaning of a step are PyMC's (5.28): one draw a step, `adagrad_window`, parameters ``mu`` and
``rho`` with sd = log(1 + exp(rho)), losses and gradients divided by rows over rows of a batch. Optimizers and callbacks made
with ``pm.`` are taken as well. What differs, because it is a defect there or has no counterpart here:

1. ``approx.hist`` and ``inference.hist`` are one array, which grows in `refine`; one loss a step, also after StopIteration.
2. ``random_seed`` fixes everything: particles, minibatches, and the sequence of ``sample()`` calls. None is fresh chance.
3. ``total_size=data.shape`` works, and losses of two-dimensional data are divided by rows over rows of a batch, as others are.
   A batch is a block of permuted rows, without replacement. Models whose rows cannot be taken apart use all rows in each step.
4. ``start`` and ``start_sigma`` know a variable by its own name and by that of its transformed value; other names are refused.
   Sds are those of the unconstrained value. With an `Inference` object, ``pm.fit``'s own ones are set aside with a warning.
5. A step that is not finite is not taken: the fit goes on from the last good place with half the step, and warns.
   A callback that fails ends the fit with a warning, and what was fitted is kept.
6. Callbacks see the losses since `fit` also during `refine`, as many as `i`.
7. ``mean``, ``std`` and ``cov`` are arrays that answer ``.eval()`` with what they are by then.
8. SVGD is jensen's: no learning rate (`obj_optimizer` has no effect), kernel and annealing of engines/stein.py, at most n steps,
   fewer once particles stand still; ``hist`` is the kernel Stein discrepancy; callbacks are called every few steps, at most 25.
   Minibatch models are fitted on all rows. ASVGD is SVGD, with a warning.
9. An even ``obj_n_mc`` is drawn in antithetic pairs.
10. ``sample`` also has the constant data; `sample_node` hands the parameters to PyMC and returns its graph.
    ``approx.posterior()`` is the fit with jensen's verdict.
"""

from jensen.compat.pymc import callbacks, updates
from jensen.compat.pymc.approximations import Approximation, Empirical, FullRank, MeanField
from jensen.compat.pymc.callbacks import CheckParametersConvergence, Tracker
from jensen.compat.pymc.entry import fit
from jensen.compat.pymc.inference import ADVI, ASVGD, SVGD, FullRankADVI, Inference, KLqp
from jensen.compat.pymc.updates import (
    adadelta,
    adagrad,
    adagrad_window,
    adam,
    adamax,
    momentum,
    nesterov_momentum,
    rmsprop,
    sgd,
)

__all__ = [
    "ADVI",
    "ASVGD",
    "SVGD",
    "Approximation",
    "CheckParametersConvergence",
    "Empirical",
    "FullRank",
    "FullRankADVI",
    "Inference",
    "KLqp",
    "MeanField",
    "Tracker",
    "adadelta",
    "adagrad",
    "adagrad_window",
    "adam",
    "adamax",
    "callbacks",
    "fit",
    "momentum",
    "nesterov_momentum",
    "rmsprop",
    "sgd",
    "updates",
]
