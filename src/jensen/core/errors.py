"""The one tree of exceptions and warnings.

JensenError
|-- ModelError        the model cannot be fitted as written (names the site)
|   |-- ImproperError     the posterior has a flat direction
|   |-- UnsupportedError  an operation or site this front end or engine cannot take
|   `-- NonFiniteError    the density is not finite where it is needed (names the factor)
|-- DataError         the data do not fit: NaN, infinite, wrong shape, unknown name
|-- OptionError       an argument of a jensen function makes no sense
`-- FileError         a path cannot be written, or a file is no saved posterior

Every message has three clauses in one sentence: what is wrong, what was seen, what to do.
"""


class JensenError(Exception):
    """Base of everything jensen raises on purpose."""


class ModelError(JensenError):
    """The model cannot be fitted as written."""


class ImproperError(ModelError):
    """The posterior has a flat direction, so it has no mean and no sd."""


class UnsupportedError(ModelError):
    """The model uses something this front end or engine cannot take."""


class NonFiniteError(ModelError):
    """The log density or its gradient is not finite where it is needed."""


class DataError(JensenError):
    """The data do not fit the model: NaN, infinite, wrong shape or unknown name."""


class OptionError(JensenError):
    """An argument makes no sense, alone or with the others."""


class FileError(JensenError):
    """A file cannot be written, or is not what it should be."""


class FitWarning(UserWarning):
    """A fit was returned, but its verdict says not to use (all of) it."""
