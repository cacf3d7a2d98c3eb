"""A progress line on terminals, silence everywhere else. The only file that knows how progress looks."""

import sys
from types import TracebackType
from typing import Any


class Progress:
    """Context manager around a fit; `show` is cheap and never changes the fit."""

    def __init__(self, wanted: bool | None):
        self._wanted = sys.stderr.isatty() if wanted is None else wanted
        self._status: Any = None

    def __enter__(self) -> "Progress":
        if self._wanted:
            from rich.console import Console

            self._status = Console(stderr=True).status("fitting ...")
            self._status.start()
        return self

    def show(self, step: int, elbo: float) -> None:
        """Update the line."""
        if self._status is not None:
            self._status.update(f"fitting: step {step}, ELBO on the design {elbo:.2f}")

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()
