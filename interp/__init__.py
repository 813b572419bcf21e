"""Measure the residual stream of TransformerLens models: the public names, nothing else.

The names stand in `__init__.pyi`; each is imported when it is first used, so that `import interp`
and the command line start at once.
"""

import sys
from typing import Any

import lazy_loader

from interp.errors import MovedModules, where_now

__version__ = "0.1.0"

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
    sys.meta_path.append(MovedModules())  # last: it only names what no other finder knows


def __getattr__(name: str) -> Any:
    if name in __all__:
        return _lazy(name)
    raise AttributeError(where_now(name, __all__))
