"""What `train` and `train_ensemble` have in common: when they check and record, and when a training has ended."""

import math
from typing import NamedTuple

from sam_lite import require


class Plan(NamedTuple):
    """The lengths of a training, checked; each argument as `train` explains it."""

    batch_size: int
    steps: int
    check_every: int
    record_every: int  # 0: never
    stop_loss: float | None

    def recorded(self, step: int) -> bool:
        return self.record_every > 0 and step % self.record_every == 0

    def checked(self, step: int) -> bool:
        return step % self.check_every == 0 or step == self.steps

    def status(self, loss: float, step: int) -> str:
        """What ends a training whose loss on all training data is this after so many steps; empty if nothing does."""
        if not math.isfinite(loss):
            return "diverged"
        if self.stop_loss is not None and loss <= self.stop_loss:
            return "stop_loss"
        return "steps" if step == self.steps else ""


def plan_of(
    n_train: int,
    batch_size: int,
    steps: int,
    check_every: int | None,
    record_every: int | None,
    stop_loss: float | None,
) -> Plan:
    """The arguments of a training on `n_train` examples as a Plan; ValueError for those that cannot be."""
    batch_size, steps = require.whole("batch_size", batch_size, most=n_train), require.whole("steps", steps)
    return Plan(
        batch_size,
        steps,
        max(25, n_train // batch_size) if check_every is None else require.whole("check_every", check_every),
        0 if record_every is None else require.whole("record_every", record_every),
        None if stop_loss is None else require.number("stop_loss", stop_loss, above=0),
    )
