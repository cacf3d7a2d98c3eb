"""A pytest plugin: scikit-learn's tests of latent Dirichlet allocation, as installed, get this package's class."""

import sklearn.decomposition

from jensen.estimators.topics import LatentDirichletAllocation

sklearn.decomposition.LatentDirichletAllocation = LatentDirichletAllocation
