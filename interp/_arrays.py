"""Names for arrays by the kind of number they hold, and the way from a tensor to one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def to_numpy(x: Tensor) -> Array:
    """Detaches, moves to the CPU and converts; bfloat16 becomes float32, which NumPy lacks."""
    x = x.detach().cpu()
    return (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()
