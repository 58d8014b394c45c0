"""How many clients of a model train in lockstep: what `[train] stack` says, resolved from model and inputs alone.

`"auto"` reads a table of what has been measured by `python -m benchmarks.stacking` on one core of a CPU. The number
changes the last bits of results, so it must not depend on the machine. On a GPU, where more models gain, it is the
same, and a larger stack is asked for by its number. A change of the table changes the numbers of studies with `"auto"`.
"""

from __future__ import annotations

import math

from fedkd.base.spec import parse
from fedkd.models.architecture import Shape
from fedkd.settings.training import Training

MEASURED: dict[str, tuple[tuple[float, int], ...]] = {
    "mlp": ((64, 32), (math.inf, 16)),
    "cnn": ((64, 16),),
}
"""(largest inputs in pixels, clients in a stack) of the models that gain: matrix products do, and convolutions of small
images a little. For all others, and for larger images, clients train one by one. More clients in a stack gain a little
more still, but then fewer workers have something to do."""


def stack_size(training: Training, spec: str, shape: Shape) -> int:
    """How many clients of the model `spec` train in lockstep on samples of a shape."""
    if training.stack != "auto":
        return training.stack
    if len(shape) != 3:
        return 1
    pixels = shape[1] * shape[2]
    return next((clients for most, clients in MEASURED.get(parse(spec).name, ()) if pixels <= most), 1)
