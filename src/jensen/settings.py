"""How a fit was asked for, and what it cost."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How a fit was asked for: enough to repeat its checks, or to go on from it."""

    method: str = "auto"
    seed: int = 0
    precision: str = "float64"
    correct: bool = True


@dataclass(frozen=True)
class Cost:
    """Gradients of the log density (points, not batches) and wall seconds of the whole call."""

    gradients: int = 0
    seconds: float = 0.0
