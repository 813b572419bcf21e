"""Errors: one base class, few children, and the nearest valid name.

Knows nothing of models or analyses. Every message states what was seen and what is allowed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class InterpError(Exception):
    """Base of every error that this library raises on purpose."""


class BadInput(InterpError, ValueError):
    """Input that cannot be used; nothing was run or written."""


class UnknownName(InterpError, KeyError):
    """A name of an analysis, site, column or model that does not exist."""

    def __str__(self) -> str:  # a KeyError prints its repr
        return str(self.args[0]) if self.args else ""


class Interrupted(KeyboardInterrupt):
    """A Ctrl-C in the middle of work; the message has what is kept, and how to go on."""


class Unsupported(InterpError):
    """A model without something that an analysis needs; the message names what would work."""


class BrokenPlugin(InterpError):
    """A registered analysis that cannot be imported or does not keep the contract."""


class ContractError(BrokenPlugin):
    """Broken laws of the contract; `broken` maps each law's name to what was seen."""

    def __init__(self, message: str, broken: Mapping[str, str]) -> None:
        # Both go to the base class: pickle calls the class again with these arguments, and an error
        # must survive the way between processes.
        super().__init__(message, broken)
        self.broken = dict(broken)

    def __str__(self) -> str:
        return str(self.args[0])


class ObserveError(InterpError):
    """Failure of an analysis inside `observe` or `table`, with its name, layer and shapes."""


class EmissionError(ObserveError):
    """What `observe` returned is no mapping of leaves."""


class AlteredError(EmissionError):
    """An analysis changed in place what it was given to read.

    `spared` is true if that was a copy, so that the model's own activation is as it was.
    """

    kind = "it changed what it reads in place"

    def __init__(self, message: str, spared: bool = False) -> None:
        super().__init__(message, spared)
        self.spared = spared

    def __str__(self) -> str:
        return str(self.args[0])


class EmissionShapeError(EmissionError):
    """A value that `observe` returned fits no table: its name is taken or its shape is another."""


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """Turns a Ctrl-C in the block into an `Interrupted` with what is kept, as `kept` tells then."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted, {kept()}") from error


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest choice in any case, or an empty string.

    >>> nearest("rotatoin", ["rotation", "attention"])
    "; did you mean 'rotation'?"
    >>> nearest("DEMO", ["demo-llama", "demo"])
    "; did you mean 'demo'?"
    >>> nearest("zzz", ["rotation"])
    ''
    """
    known = [str(c) for c in choices]
    # As it is typed first: of names that differ in case only, the nearer one is meant.
    found = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    folded = {each.casefold(): each for each in reversed(known)}
    alike = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.6)
    if alike and (not found or alike[0] == str(name).casefold()):
        found = [folded[alike[0]]]
    return f"; did you mean {found[0]!r}?" if found else ""


def unknown(kind: str, name: str, choices: Iterable[str]) -> UnknownName:
    """Build the error for a name that is not among the choices.

    >>> str(unknown("analysis", "rotatoin", ["rotation"]))
    "unknown analysis 'rotatoin'; did you mean 'rotation'? (known: rotation)"
    """
    known = list(choices)
    hint = nearest(name, known)
    return UnknownName(f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})")


# ---- what has moved ----------------------------------------------------------------------------

MOVED = {
    "analysis": "contract.analysis",
    "anatomy": "models.anatomy",
    "cached": "runs.from_cache",
    "checks": "runs.checks",
    "clustered": "contract.document_sums",
    "controls": "models.untrained",
    "corpus": "runs.corpus",
    "demo.show": "cli.demo",
    "doses": "experiments.dose_response",
    "embedding": "measures.spectrum",
    "experiments.prediction": "experiments.path_prediction",
    "experiments.shown": "render.finding",
    "experiments.units": "experiments.tokens_or_words",
    "heads": "experiments.heads",
    "input_split": "experiments.score_split",
    "labels": "prompts.labels",
    "lens": "models.lens.statistics",
    "observer": "models.observer",
    "positions": "measures.positions",
    "prediction": "models.logit_geometry",
    "probe": "models.probe",
    "profiles": "measures.attention_offsets",
    "progress": "_progress",
    "readout": "models.readout",
    "registry": "contract.registry",
    "results": "runs.results",
    "runner": "runs.run",
    "sites": "contract.sites",
    "spaces": "experiments",
    "spaces.compare": "experiments.spaces",
    "spaces.continuations": "experiments.continuations",
    "spaces.drift": "experiments.drift",
    "spaces.layers": "experiments.layers",
    "spaces.maps": "measures.maps",
    "spaces.nulls": "stats.nulls",
    "spaces.retrieval": "measures.retrieval",
    "spaces.similarity": "measures.similarity",
    "spaces.states": "experiments.token_vectors",
    "spaces.streamed": "measures.streamed",
    "spaces.vectors": "experiments.word_files",
    "state": "contract.leaves",
    "stats.clustered": "stats.document_tests",
    "stats.neighbours": "stats.layer_runs",
    "steering": "experiments.steering",
    "tallies": "contract.counts",
    "trajectories": "measures.paths",
    "unembedding": "measures.tying",
    "vocabulary": "experiments.nearest",
    "word_vectors": "experiments.words",
}
"""Modules of the first layout, with the new place of their subject."""
MOVED_NAMES = {
    "BrokenPlugin": "errors",
    "CorpusRun": "runs.corpus.run",
    "CorpusTables": "runs.corpus.output",
    "ObserveError": "errors",
    "Probes": "runs.attach",
    "RowTable": "runs.corpus.output",
    "UnknownName": "errors",
    "Unsupported": "errors",
}
"""Names that stood at the top and are on no page now, with their modules."""
PAGES = ("contract", "experiments", "measures", "models", "prompts", "runs", "stats")


class MovedModules(MetaPathFinder):
    """An import finder that names the new place of a moved module, and finds nothing itself."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002
        """Raise `ModuleNotFoundError` with the new place of a module that has moved."""
        package, _, name = fullname.partition(".")
        if package == "interp" and name in MOVED:
            # Python asks for a package before its modules, so the package tells of both.
            parts = "".join(f"; {m} is {MOVED[m]}" for m in MOVED if m.startswith(f"{name}."))
            raise ModuleNotFoundError(
                f"interp.{name} is now interp.{MOVED[name]}{parts}", name=fullname
            )


def where_now(name: str, public: Iterable[str]) -> str:
    """The message for a name that the package does not have: its new place, or the nearest name."""
    if name in MOVED:
        return f"module 'interp' has no attribute {name!r}: it is now interp.{MOVED[name]}"
    # Read as text: importing the pages to answer a misspelt name would load torch and models.
    names = dict(MOVED_NAMES)
    for page in PAGES:
        text = (Path(__file__).parent / page / "__init__.py").read_text(encoding="utf-8")
        names |= dict.fromkeys(re.findall(r"import \w+ as (\w+)$", text, re.MULTILINE), page)
    if name in names:
        return f"module 'interp' has no attribute {name!r}: it is now interp.{names[name]}.{name}"
    return f"module 'interp' has no attribute {name!r}{nearest(name, [*public, *names])}"
