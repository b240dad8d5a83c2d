"""A progress bar with loss, examples a second and time left; silent where nobody watches."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tqdm import tqdm


class Progress:
    """One bar on standard error.

    Attributes:
        enabled: whether anything is drawn.
    """

    def __init__(
        self, total: int, start: int = 0, enabled: bool | None = None, label: str = "train"
    ):
        """Draw a bar over steps `start + 1 .. total`.

        Args:
            total: the last step.
            start: the step that a resumed run begins at.
            enabled: draw; None draws if standard error is a terminal.
            label: text before the bar.
        """
        self.enabled = sys.stderr.isatty() if enabled is None else enabled
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=label,
            unit="step",
            disable=not self.enabled,
            dynamic_ncols=True,
            file=sys.stderr,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar}| {postfix}, {remaining} left",
        )
        self._rate = 0.0
        self._before: tuple[float, int] | None = None

    def update(self, step: int, loss: float, examples: int) -> None:
        """Move the bar on: step `step` is done.

        Args:
            step: the number of the step.
            loss: loss to show.
            examples: number of examples that the run has seen; the rate is that of its growth.
        """
        now = time.monotonic()
        if self._before is not None:
            then, seen = self._before
            latest = (examples - seen) / max(now - then, 1e-9)
            # The mean of about the last ten steps.
            self._rate = latest if not self._rate else 0.9 * self._rate + 0.1 * latest
        self._before = now, examples
        text = f"loss {loss:.4g}, {self._rate:.3g} examples/s"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)

    def note(self, scalars: Mapping[str, Any]) -> None:
        """Write a line of scalars above the bar: those of an evaluation at this step."""
        if self.enabled and scalars:
            values = ", ".join(f"{name} {_short(value)}" for name, value in scalars.items())
            self._bar.write(f"step {self._bar.n}: {values}", file=sys.stderr)
        # What came before was no training step, and its time does not count.
        self._before = None

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def __enter__(self) -> "Progress":
        """Return the bar itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar."""
        self.close()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
