"""The folder `analyses` beside `interp`, as a package under a name that nothing else has.

A folder `analyses` where Python was started comes first on the import path and hides the
installed one. `interp.contract.builtin.rotation` is the same file as `analyses.rotation`.
"""

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

NAME = "analyses"
__path__ = [str(Path(__file__).parents[2] / NAME)]


def module_of(name: str) -> str:
    """Name under which a module can be imported: its own one, unless another package hides it.

    Args:
        name: dotted name, such as `"analyses.rotation"`.
    """
    package, dot, rest = name.partition(".")
    return f"{__name__}.{rest}" if dot and package == NAME and _hidden() else name


@cache
def is_builtin(kind: type) -> bool:
    """Whether a class stands in that folder, whose analyses the library's own tests check."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file is not None and Path(file).resolve().parent == Path(__path__[0]).resolve()


def _hidden() -> bool:
    """Whether `import analyses` gives something else than the folder beside `interp`."""
    try:
        spec = find_spec(NAME)
    except ValueError:  # a module that was put into sys.modules by hand, without a spec
        return True
    places = spec.submodule_search_locations if spec is not None else None
    return all(Path(place).resolve() != Path(__path__[0]).resolve() for place in places or ())
