"""What an optimizer step gave: its loss and its norm, read when somebody asks and not before.

On a GPU the numbers are copied to pinned memory behind the step, so that reading those of one step waits for no step
queued after it. The cost: eight bytes of pinned memory and an event for each step that is still held.
"""

from __future__ import annotations

import math

import torch


class StepResult:
    """Loss and gradient norm of one optimizer step, over the whole global batch.

    Copied to the host behind the step: the first access waits for that copy, and not for steps queued after it.
    """

    def __init__(self, loss: torch.Tensor, norm: torch.Tensor, scaled: bool = False) -> None:
        values = torch.stack([loss.detach().float(), norm.detach().float()])
        self._scaled, self._done = scaled, None
        if values.device.type == "cuda":
            self._values = torch.empty(2, pin_memory=True).copy_(values, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()
        else:
            self._values = values
        self._read: tuple[float, float] | None = None

    def _host(self) -> tuple[float, float]:
        if self._read is None:
            if self._done is not None:
                self._done.synchronize()
            loss, norm = self._values.tolist()
            self._read = loss, norm
        return self._read

    @property
    def loss(self) -> float:
        """Mean over the slots of the global batch, nats; with z-loss where the configuration has one."""
        return self._host()[0]

    @property
    def norm(self) -> float:
        """Norm of the gradient of the whole model before clipping."""
        return self._host()[1]

    @property
    def skipped(self) -> bool:
        """With fp16: the scaled gradient overflowed, no weight was changed, and the loss scale was halved."""
        return self._scaled and math.isfinite(self.loss) and not math.isfinite(self.norm)
