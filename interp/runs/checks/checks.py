"""The contract of an analysis as laws that plug-in authors run: `check_analysis`.

Every law is one function (`interp.runs.checks.laws`) that runs an analysis on synthetic
activations, without a model, and returns what it saw if the law is broken. The framework's own code
runs: the observer, the reduction to leaves, the merge. Values that differ only in the order of
their additions are equal within `RTOL` and `ATOL`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from interp.contract import declared
from interp.contract.analysis import Analysis
from interp.contract.emissions import author_line
from interp.contract.registry import resolve
from interp.errors import AlteredError, ContractError, ObserveError, unknown
from interp.runs.checks import laws as _laws


@dataclass(frozen=True)
class Law:
    """One law of the contract.

    Attributes:
        name: of the law in reports.
        broken: a function that returns what was seen if the law is broken, else None.
        fix: advice to the author.
        weights: whether it also applies to scope "weights", which has no prompts.
        undeclared: a function that returns which declaration has the wrong type, if one has. It is
            asked before anything runs.
    """

    name: str
    broken: Callable[[Analysis], str | None]
    fix: str
    weights: bool = False
    undeclared: Callable[[Analysis], str | None] | None = None


@dataclass(frozen=True)
class Report:
    """The laws that hold for an analysis, printed as a list.

    Attributes:
        analysis: name of the analysis.
        passed: names of the laws that hold.
        skipped: names of the laws that do not apply to its scope.
        notes: advice on matters that break no law.
    """

    analysis: str
    passed: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"analysis {self.analysis!r} keeps the contract: {len(self.passed)} laws"]
        lines += [f"  {name}" for name in self.passed]
        lines += [f"  - {name} (does not apply to this scope)" for name in self.skipped]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    __repr__ = __str__


def check_analysis(
    analysis: str | Analysis | type[Analysis], *, laws: Iterable[str] | None = None
) -> Report:
    """Check an analysis against the contract, on synthetic activations and without a model.

    Args:
        analysis: an instance; a class or a registered name stand for their defaults.
        laws: names of the laws to check, all unless given; see `LAWS`.

    Returns a report of the laws that hold.
    Raises `ContractError` with every broken law, what was seen and the fix; `UnknownName` for a law
    that does not exist.

    >>> from analyses.rotation import Rotation
    >>> len(check_analysis(Rotation(), laws=["runs", "merge order"]).passed)
    2
    """
    # Wrong declarations are what the laws find.
    ((name, subject),) = resolve([analysis], declared=False).items()
    chosen = [_law(law) for law in laws] if laws is not None else list(LAWS.values())
    skipped = [law.name for law in chosen if subject.scope == "weights" and not law.weights]
    applicable = [law for law in chosen if law.name not in skipped]
    with _one_thread():
        broken = _broken(applicable, subject)
    if broken:
        # Plain text, which comes back from other processes.
        seen = {law: str(text) for law, text in broken.items()}
        raise ContractError(_message(name, broken), seen)
    passed = tuple(law.name for law in applicable)
    return Report(name, passed, tuple(skipped), _notes(subject))


def _broken(laws: Iterable[Law], analysis: Analysis) -> dict[str, str]:
    """Observations by the name of each broken law."""
    chosen = list(laws)
    asked = [(law.name, law.undeclared(analysis)) for law in chosen if law.undeclared]
    found = {name: seen for name, seen in asked if seen is not None}
    if found:
        # What runs with a string for a tuple fails anywhere, and the cause would be lost.
        return found
    for law in chosen:
        seen = _judge(law, analysis)
        if isinstance(seen, _Altered):
            return {"input unchanged": str(seen)}
        if seen is not None:
            found[law.name] = seen
            # An analysis that cannot be observed at all would fail all other laws as well, and the
            # cause would be lost among them.
            first = law.name in ("sites exist", "runs", "emissions")
            if first or isinstance(seen, _laws.Unjudgeable):
                break
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run the block on one thread of torch."""
    # The tensors are tiny: waking threads for them takes longer than the sums.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _law(name: str) -> Law:
    if name not in LAWS:
        raise unknown("law", name, LAWS)
    return LAWS[name]


class _Raised(str):
    """An exception in words: the author's code ended, and no law was judged."""

    __slots__ = ()


class _Altered(str):
    """What was changed in place, by whichever law it was met."""

    __slots__ = ()


def _judge(law: Law, analysis: Analysis) -> str | None:
    try:
        return law.broken(analysis)
    except AlteredError as error:
        return _Altered(error)
    except ObserveError as error:
        return _Raised(error)  # has the author's line
    except Exception as error:  # noqa: BLE001 - whatever a plug-in raises is what is reported
        line = author_line(analysis, error)
        return _Raised(f"{type(error).__name__}: {error}{line}")


def _message(name: str, broken: Mapping[str, str]) -> str:
    many = "1 law" if len(broken) == 1 else f"{len(broken)} laws"
    lines = [f"analysis {name!r} breaks {many} of the contract"]
    told: set[str] = set()
    for law, seen in broken.items():
        if seen in told:
            continue
        lines.append(f"  {law}: {seen}")
        if isinstance(seen, _Raised):
            told.add(seen)
            lines.append(f"    {_raised(seen, law, broken)}")
        else:
            lines.append(f"    {_fix(seen, law)}")
    return "\n".join(lines)


def _fix(seen: str, law: str) -> str:
    """Advice on what was seen: its own, else that of the law."""
    if isinstance(seen, _laws.Told):
        return seen.fix
    sides = re.search(r"is (\S+) in one case, (\S+) in the other", seen)
    if sides and (sides[1] == "nan") != (sides[2] == "nan"):
        return _laws.UNDEFINED
    return LAWS[law].fix


def _raised(seen: str, law: str, broken: Mapping[str, str]) -> str:
    """Advice on an exception: which laws it kept from being judged."""
    others = [other for other, said in broken.items() if said == seen and other != law]
    also = f", nor were {', '.join(others)}" if others else ""
    return f"The code of the analysis raised this, so this law was not judged{also}."


def _notes(analysis: Analysis) -> tuple[str, ...]:
    notes = []
    if not (type(analysis).__doc__ or "").strip() or type(analysis).__doc__ == Analysis.__doc__:
        notes.append("the class has no docstring: `interp list` has nothing to say of it")
    notes += _laws.unproduced(analysis)
    if analysis.scope != "weights":
        notes += _laws.untelling(analysis) + _laws.with_special(analysis)
    return tuple(notes)


LAWS: Mapping[str, Law] = {
    law.name: law
    for law in (
        Law(
            "sites exist",
            _laws.sites_exist,
            "Name sites from `interp.contract.sites.SITES`, in a tuple, that its scope has; "
            "`scope` is 'layer', 'model' or 'weights'.",
            weights=True,
            undeclared=declared.undeclared_sites,
        ),
        Law(
            "parameters",
            _laws.parameters,
            "Decorate with @dataclass(frozen=True); keep parameters as given: numbers, text, "
            "booleans, None and tuples of these.",
            weights=True,
        ),
        Law(
            "runs", _laws.runs, "Return a dict of PerToken, PerHead or other leaves.", weights=True
        ),
        Law(
            "emissions",
            _laws.emissions,
            "One value per token (and head) of the whole rectangle, padding included; names "
            "must not be those of index columns.",
        ),
        Law(
            "table is tidy",
            _laws.table_is_tidy,
            "One value per cell, one name per column, no index of its own; the table changes "
            "nothing.",
            weights=True,
        ),
        Law(
            "optional sites",
            _laws.optional_sites,
            "Ask for optional sites with batch.get(...) and go without where it is None; read "
            "`batch.terms` by the names that are there.",
        ),
        Law(
            "input unchanged",
            _laws.input_unchanged,
            "Compute into new tensors: no operators that end in `_`, no `+=`, no assignment.",
            weights=True,
        ),
        Law(
            "keeps nothing",
            _laws.keeps_nothing,
            "State belongs in leaves, not in the analysis; for totals over depth use "
            "`batch.running`.",
            weights=True,
        ),
        Law(
            "deterministic",
            _laws.deterministic,
            "The same batch must give the same state: no clock, no unseeded generator, no "
            "memory of earlier calls.",
            weights=True,
        ),
        Law(
            "no global randomness",
            _laws.no_global_randomness,
            "Take a `seed` parameter and use `interp.priority` or a generator of your own.",
            weights=True,
        ),
        Law(
            "every dtype",
            _laws.every_dtype,
            "Widen first (`geometry.at_least_float32`), then subtract, sum or multiply.",
        ),
        Law(
            "undefined is NaN",
            _laws.undefined,
            "Divide with `geometry.ratio`, which gives NaN over zero, and keep every token.",
        ),
        Law(
            "one batch equals many",
            _laws.one_batch_equals_many,
            "A prompt's values may depend on that prompt alone, not on the others of its batch.",
        ),
        Law(
            "uneven split",
            _laws.uneven_split,
            "Keep sums and counts and divide in `table`: averages of averages weigh batches, "
            "not tokens.",
        ),
        Law(
            "order of prompts",
            _laws.order_of_prompts,
            "Use `batch.ids` to tell prompts apart, not their row.",
        ),
        Law(
            "merge order",
            _laws.merge_order,
            "A merge must be commutative and associative; ties go to the lowest prompt id; "
            "`table` sorts.",
        ),
        Law(
            "merge leaves its operands",
            _laws.merge_is_pure,
            "`merge` returns a new leaf and changes neither side.",
        ),
        Law(
            "values under the mask",
            _laws.values_under_the_mask,
            "Select with `batch.mask` (indexing, torch.where); multiplying by it keeps NaN.",
        ),
        Law(
            "length of padding",
            _laws.length_of_padding,
            "Count with `batch.mask`, never with the shape of the batch.",
        ),
        Law(
            "side of padding",
            _laws.side_of_padding,
            "Use `batch.positions` and `batch.mask`; a column is not a position.",
        ),
        Law(
            "fully masked example",
            _laws.fully_masked,
            "A prompt without real tokens contributes nothing; choose prompts among those with "
            "`batch.mask.any(-1)` and let empty selections pass.",
        ),
        Law(
            "state does not grow",
            _laws.does_not_grow,
            "Add up into arrays of fixed size; per-token values go out as PerToken.",
        ),
        Law(
            "pickles",
            _laws.pickles,
            "Define classes at the top level of a module; no lambda, hook or file in them.",
            weights=True,
        ),
        Law(
            "leaves detached on the CPU",
            _laws.on_the_cpu,
            "Build leaves from NumPy arrays: `leaf.of(...)` or `tensor.detach().cpu().numpy()`.",
            weights=True,
        ),
        Law(
            "leaves own their memory",
            _laws.owns_memory,
            "Copy what is kept: a view holds on to the activations of the whole batch.",
            weights=True,
        ),
        Law(
            "sums in float64",
            _laws.sums_in_float64,
            "Convert to float64 before adding up.",
            weights=True,
        ),
        Law(
            "leaf round trip",
            _laws.leaf_round_trip,
            "`from_arrays(leaf.arrays())` must restore everything that `merge` needs.",
            weights=True,
        ),
        Law(
            "save and load",
            _laws.save_and_load,
            "Keep parameters and leaves to what JSON and arrays hold; define classes at the "
            "top level of a module.",
            weights=True,
        ),
        Law(
            "columns documented",
            _laws.columns_documented,
            "Say in `columns` what every column means, with its unit; patterns such as "
            "'*_share' are allowed. `keys` and `token_columns` are tuples of names.",
            weights=True,
            undeclared=declared.undeclared_columns,
        ),
        Law(
            "values in their ranges",
            _laws.values_in_range,
            "Declare in `ranges` the least and largest value that the formula can give, in the "
            "unit of the column; math.inf or -math.inf for an open end.",
            weights=True,
        ),
        Law(
            "figures draw what is there",
            _laws.figures,
            "Declare `plots` as a tuple of interp.Plot, and name columns of the table or leaves in "
            "their `values`; CONTRIBUTING.md has what each kind draws.",
            weights=True,
            undeclared=declared.undeclared_figures,
        ),
    )
}
"""Every law by its name, in the order in which they are checked."""
