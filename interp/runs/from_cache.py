"""Analyses over activations that were cached earlier: no pass is run for them.

`from_cache` resolves the sites in what `run_with_cache` returned and hands them to the same
observer that `run` and `attach` feed. Knows names and shapes; knows nothing of hooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from interp.contract.analysis import Analysis
from interp.contract.jobs import Key, ObserveCall, Wiring
from interp.contract.registry import resolve
from interp.contract.tokens import Tokens
from interp.errors import BadInput, Unsupported
from interp.models.anatomy import Anatomy
from interp.models.answers import Answers, answers_of, refuse_unanswered, second_answers
from interp.models.contexts import tokens_from_call
from interp.models.for_model import set_apart, special_ids_of
from interp.models.forward import device_of
from interp.models.layout import state_names
from interp.models.observer import Observer
from interp.models.probe import inspect, inspect_activations, output_transform
from interp.prompts.prompts import Prompts
from interp.prompts.read import read_prompts
from interp.runs.collect import Collector, observe_weights
from interp.runs.feed import refuse_nan
from interp.runs.provenance import answers_given, provenance_of
from interp.runs.results import Results
from interp.runs.run import DEFAULT, Wanted

TOKENS = ("embed.hook_in", "hook_tokens")
LOGITS = ("unembed.hook_out", "hook_unembed")
_SHOWN = 100


def from_cache(
    cache: Any,
    analyses: Wanted = DEFAULT,
    *misplaced: Any,
    tokens: Any = None,
    model: Any = None,
    mask: Any = None,
    positions: Any = None,
    targets: Any = None,
    against: Any = None,
) -> Results:
    """Runs analyses over an `ActivationCache` and returns the tables that `run` gives.

    Args:
        cache: the second value that `run_with_cache` returned: an `ActivationCache` or a plain
            mapping, with or without the batch dimension.
        analyses: names, classes or instances.
        misplaced: nothing; a call with the model first is told the right one.
        tokens: `[batch, pos]` ids that the model was given; not needed where the cache has them,
            as a whole cache of a TransformerBridge does.
        model: the model that was run; by default the one that the cache carries. Without one the
            sites are verified on the cached activations themselves, and what reads the
            vocabulary (`logit_lens`) or the weights is refused. It must have the weights that it
            had then.
        mask: `[batch, pos]`, true for real tokens. Without one, rows that end in padding tokens
            while others do not are taken as right-padded, as `attach` does.
        positions: where the cache was made with `pos_slice`: the same list, slice or number. Then
            `tokens` and `mask` are those of the whole prompts, by which next tokens and keys are
            known; without `tokens` the next token is known only where two columns follow each
            other. A cut that shows in the cache (patterns with other keys, position ids) is
            refused without it; one of the stream alone does not show.

        targets, against: answers, one token or one for each prompt, as `attach` takes them.

    The final logits are those of the cache (`unembed.hook_out`), else they are read out from the
    last state, in which case the lens agrees with itself at the last state by construction;
    which one it was stands in the notes and the provenance.

    Raises `Unsupported` where the cache lacks what an analysis needs, with the hook names to
    cache; `BadInput` where tokens, positions and cache do not fit.
    """
    _refuse_order(cache, analyses, *misplaced)
    values, model = _opened(cache, model)
    chosen = resolve(analyses)
    _refuse_without_model(chosen, model)
    refuse_unanswered(chosen.values(), against)
    if positions is None:
        _refuse_cut(values)
        context = _context(_tokens(values, tokens), mask, model)
    else:
        context = _cut_context(values, tokens, mask, positions, model)
    ids = context.tokens
    anatomy = inspect(model) if model is not None else inspect_activations(values, context.mask)
    context = set_apart(context, anatomy.stacks[0])
    answers: tuple[Answers, Answers] = (None, None)
    if model is not None:
        answers = answers_of(model, targets, "targets"), second_answers(model, against)
        context = context.answered(*answers)
    if len(anatomy.stacks) != 1:
        raise Unsupported("from_cache reads models with one stack of blocks; use run or attach")
    store = _Store(values, (*ids.shape, context.key_tokens.shape[1]), anatomy, model)
    jobs, notes = _servable(anatomy.wire(list(chosen.values())), store)
    collector = Collector(chosen)
    if jobs:
        _replay(jobs, store, context, collector)
    observe_weights(model, chosen, collector)
    prompts, index = _prompts(context, model, massive_first=anatomy.stacks[0].massive_first)
    provenance = provenance_of(model, anatomy, chosen, prompts) | answers_given(model, *answers)
    provenance["cache"] = {"final_logits": store.logits_from, "notes": notes}
    results = collector.results(index, provenance, anatomy, model)
    if store.logits_from and store.logits_from not in LOGITS:
        notes = [*notes, f"Final logits were not in the cache; they are the {store.logits_from}."]
    for result in results.values():
        result.notes = (*result.notes, *notes)
    return results


def _prompts(context: Tokens, model: Any, *, massive_first: bool) -> tuple[Prompts, pd.DataFrame]:
    """The prompts, whole where they are known, and the token table of what the cache holds."""
    row, column = context.mask.nonzero(as_tuple=True)
    held = {"prompt": context.ids[row], "position": context.positions[row, column]}
    table = pd.DataFrame({name: values.cpu().numpy() for name, values in held.items()})
    whole = bool((context.key_tokens[context.key_mask] >= 0).all())
    ids, mask = (context.key_tokens, context.key_mask) if whole else (context.tokens, context.mask)
    tokenizer = getattr(model, "tokenizer", None)
    special = [] if model is None else special_ids_of(model)
    prompts = read_prompts(
        ids.cpu(), tokenizer, mask=mask.cpu(), prepend_bos=False, special_ids=special
    )
    prompts = replace(prompts, massive_first=massive_first)  # before the table: it marks tokens
    index = prompts.index()
    if not whole:
        return prompts, index.assign(position=table["position"])
    return prompts, index.merge(table, on=["prompt", "position"])


def _refuse_order(*given: Any) -> None:
    """Raises `BadInput` for more than a cache and analyses, and for a model or cache elsewhere."""
    model_first = isinstance(given[0], torch.nn.Module) or hasattr(given[0], "run_with_cache")
    if not (model_first or _is_cache(given[1]) or len(given) > 2):
        return
    seen = ", ".join(type(each).__name__ for each in given)
    raise BadInput(
        f"from_cache({seen}): the cache comes first and the model is an option: "
        "from_cache(cache, ['rotation'], tokens=tokens, model=model), where "
        "logits, cache = model.run_with_cache(tokens)"
    )


def _is_cache(given: Any) -> bool:
    values = getattr(given, "cache_dict", given)
    return isinstance(values, Mapping) and any(isinstance(x, Tensor) for x in values.values())


def _opened(cache: Any, model: Any) -> tuple[Mapping[str, Any], Any]:
    values = getattr(cache, "cache_dict", cache)
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise BadInput(
            f"expected an ActivationCache or a mapping of hook names to tensors, got "
            f"{type(cache).__name__}; run_with_cache returns (logits, cache)"
        )
    return values, model if model is not None else getattr(cache, "model", None)


def _refuse_without_model(chosen: Mapping[str, Analysis], model: Any) -> None:
    if model is not None:
        return
    for name, analysis in chosen.items():
        what = {"readout", "logits"} & set(analysis.sites)
        if what or analysis.scope == "weights":
            raise Unsupported(
                f"analysis {name!r} needs {' and '.join(sorted(what)) or 'the weights'}, and this "
                "cache carries no model: pass model="
            )


def _is_square(name: str, value: Any) -> bool:
    """True if this is an activation of queries and keys."""
    named = name.endswith((".hook_pattern", ".hook_attn_scores"))
    return named and isinstance(value, Tensor) and value.ndim >= 3


def _keys_in(values: Mapping[str, Any]) -> int:
    """Number of keys of the patterns in a cache, 0 without any."""
    return max((v.shape[-1] for name, v in values.items() if _is_square(name, v)), default=0)


def _refuse_cut(values: Mapping[str, Any]) -> None:
    """Raises where patterns or position ids show that the cache holds a part of each prompt."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            continue
        if _is_square(name, value) and value.shape[-1] != value.shape[-2]:
            seen = f"{name} has {value.shape[-2]} queries and {value.shape[-1]} keys"
        elif name == "pos_embed.hook_in" and not value.is_floating_point() and _jumps(value):
            seen = f"{name} holds the positions {value.flatten()[:6].tolist()}"
        else:
            continue
        raise BadInput(
            f"this cache holds a part of each prompt ({seen}): pass positions=, what pos_slice was "
            "given, and tokens= the whole prompts; or cache without pos_slice"
        )


def _jumps(ids: Tensor) -> bool:
    """True if positions are left out in every row. The first position of a row does not show a
    cut: some models count from 2, and padding has positions too."""
    rows = ids if ids.ndim == 2 else ids[None]
    return bool((rows.diff(dim=1) > 1).any(dim=1).all())


def _cut_context(
    values: Mapping[str, Any], tokens: Any, mask: Any, positions: Any, model: Any
) -> Tokens:
    """The tokens of a cache that holds some columns of each prompt, at their true positions."""
    cached = _cached_tokens(values)
    if tokens is not None:
        whole = _rows(tokens)
        columns = _columns(positions, whole.shape[1])
    elif cached is not None:
        columns = _columns(positions, None)
        if _rows(cached).shape[1] != len(columns):
            raise BadInput(
                f"positions= names {len(columns)} columns, the cache holds the tokens of "
                f"{_rows(cached).shape[1]}"
            )
        # Patterns keep every key of a cut cache and so tell how long the prompts were.
        length = max(int(columns.max()) + 1, _keys_in(values))
        whole = torch.full((len(_rows(cached)), length), -1)
        whole[:, columns] = _rows(cached).to(whole)
    else:
        raise BadInput(_NO_TOKENS)
    context = _context(whole, mask, model)
    part = context.columns(columns)
    if cached is not None and not _equal(part.tokens, _rows(cached)):
        raise BadInput(
            f"tokens= {tuple(whole.shape)} at positions= {columns.tolist()} are not those that the "
            f"cache was made from; tokens= are to be the whole prompts"
        )
    return part


def _columns(positions: Any, length: int | None) -> Tensor:
    """Column numbers that `pos_slice` selects."""
    if isinstance(positions, tuple):
        positions = slice(*positions)
    if isinstance(positions, slice | int) and length is None:
        raise BadInput("positions= as a slice or a number needs tokens=, the whole prompts")
    every = torch.arange(length) if length is not None else None
    if isinstance(positions, slice | int) and every is not None:
        return every[positions].reshape(-1)
    try:
        columns = torch.as_tensor(positions)
    except (TypeError, ValueError, RuntimeError):
        columns = torch.empty(0)
    if columns.ndim != 1 or columns.is_floating_point() or not len(columns):
        raise BadInput(f"positions= is {positions!r}; give what pos_slice was given")
    most = int(columns.max()) if length is None else length - 1
    if int(columns.min()) < 0 or int(columns.max()) > most or bool((columns.diff() <= 0).any()):
        raise BadInput(
            f"positions= {columns.tolist()} must ascend and lie between 0 and {most}, the last "
            "column of tokens="
        )
    return columns


_NO_TOKENS = (
    f"this cache does not hold the tokens ({' or '.join(TOKENS)}): pass tokens=, the ids "
    "[batch, pos] that were given to run_with_cache"
)


def _cached_tokens(values: Mapping[str, Any]) -> Tensor | None:
    cached = next((values[n] for n in TOKENS if isinstance(values.get(n), Tensor)), None)
    return None if cached is None or cached.is_floating_point() else cached


def _tokens(values: Mapping[str, Any], given: Any) -> Tensor:
    cached = _cached_tokens(values)
    if given is None and cached is None:
        raise BadInput(_NO_TOKENS)
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], str)):
        raise BadInput("tokens= takes ids, not text: pass model.to_tokens(text)")
    if given is None or cached is None:
        return _rows(cached if given is None else given)
    ids, cached = _rows(given), _rows(cached)
    if not _equal(ids, cached):
        raise BadInput(
            f"tokens= {tuple(ids.shape)} are not those that the cache was made from "
            f"{tuple(cached.shape)}"
        )
    return ids


def _rows(ids: Any) -> Tensor:
    """Ids or mask as `[batch, pos]`."""
    rows = torch.as_tensor(ids)
    rows = rows if rows.ndim == 2 else rows[None]
    if rows.ndim != 2 or rows.is_floating_point():
        raise BadInput(f"expected [batch, pos] integers, got {rows.dtype} {tuple(rows.shape)}")
    return rows


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a.cpu() == b.cpu()).all())


def _context(ids: Tensor, mask: Any, model: Any) -> Tokens:
    mask = None if mask is None else _rows(mask)
    if mask is not None and mask.shape != ids.shape:
        raise BadInput(f"mask {tuple(mask.shape)} does not fit the tokens {tuple(ids.shape)}")
    return tokens_from_call(
        (),
        {"input_ids": ids, "attention_mask": mask},
        first_id=0,
        special_ids=[] if model is None else special_ids_of(model),
        pad_id=getattr(getattr(model, "tokenizer", None), "pad_token_id", None),
    )


class _Store:
    """The cached activations by key, with the batch dimension put back."""

    def __init__(
        self, values: Mapping[str, Any], shape: tuple[int, ...], anatomy: Anatomy, model: Any
    ) -> None:
        *self.shape, self.n_keys = shape
        self.values, self.anatomy, self.model = values, anatomy, model
        self.logits_from: str | None = None
        points = model.hook_dict if model is not None else {}
        self._point_of = {name: id(point) for name, point in points.items()}
        self._names_of: dict[int, list[str]] = {}
        for name, point in self._point_of.items():
            self._names_of.setdefault(point, []).append(name)
        self._found: dict[Key, Tensor | None] = {}

    def get(self, key: Key) -> Tensor | None:
        """The activation, None where the cache has it under none of its names."""
        if key not in self._found:
            self._found[key] = self._logits() if key.is_logits else self._activation(key)
        return self._found[key]

    def names(self, key: Key) -> list[str]:
        """Every name that this activation may have, the one to cache first."""
        (stack,) = self.anatomy.stacks
        source = self.anatomy.source(key)
        first = [source] if source else []
        if key.is_state:
            first += state_names(stack.stack.path, key.index, stack.n_blocks)
        others = [n for name in first for n in self._names_of.get(self._point_of.get(name, -1), [])]
        return list(dict.fromkeys([*first, *others]))

    def _activation(self, key: Key) -> Tensor | None:
        here = [n for n in self.names(key) if isinstance(self.values.get(n), Tensor)]
        axes = key.axes
        for name in here:
            value: Tensor = self.values[name]
            # TransformerLens drops the batch axis of a cache on request (`remove_batch_dim`).
            value = value if value.ndim == len(axes) else value[None]
            if self._fits(value, axes):
                return value
        if here:
            seen = tuple(self.values[here[0]].shape)
            raise BadInput(
                f"{here[0]} is {seen} in the cache, which does not fit the tokens "
                f"{tuple(self.shape)}; was it cached from other tokens, or with pos_slice (then "
                "pass positions=)?"
            )
        return None

    def _fits(self, value: Tensor, axes: tuple[str, ...]) -> bool:
        batch, length = self.shape
        expected = {"batch": batch, "pos": length, "query": length, "key": self.n_keys}
        expected["d_model"] = self.anatomy.d_model
        return value.ndim == len(axes) and all(
            size == expected.get(axis, size) for size, axis in zip(value.shape, axes, strict=True)
        )

    def _logits(self) -> Tensor | None:
        (stack,) = self.anatomy.stacks
        for name in LOGITS:
            value = self.values.get(name)
            if isinstance(value, Tensor):
                value = value if value.ndim == 3 else value[None]
                if list(value.shape[:2]) == self.shape:
                    self.logits_from = name
                    logits: Tensor = output_transform(self.model)(value)
                    return logits
        last = self.get(Key.state(stack.name, stack.n_blocks))
        if self.anatomy.readout is None or last is None:
            return None
        self.logits_from = f"readout of the last state, {self.anatomy.readout.path}"
        return self.anatomy.readout.logits(last.to(device_of(self.model)))


def _servable(wiring: Wiring, store: _Store) -> tuple[Wiring, list[str]]:
    """The jobs that this cache can serve, and what was left out; refuses what is needed."""
    lacking: dict[str, dict[str, list[Key]]] = {}
    for job in wiring.jobs:
        absent = {k for k in job.needs if store.get(k) is None}
        if needed := sorted(absent & job.required, key=lambda k: k.index):
            lacking.setdefault(job.analysis.name(), {}).setdefault("", []).extend(needed)
        for site, keys in (*job.sites.items(), ("terms", tuple(job.terms.values()))):
            if missing := [k for k in keys if k in absent - job.required]:
                lacking.setdefault(job.analysis.name(), {}).setdefault(site, []).extend(missing)
    for name, sites in lacking.items():
        if "" in sites:
            raise Unsupported(
                f"the cache lacks what analysis {name!r} reads; cache "
                f"{_listed(store, sites[''])} too (names_filter of run_with_cache)"
            )
    jobs = [_without(job, set(lacking.get(job.analysis.name(), ()))) for job in wiring.jobs]
    notes = [
        f"{name}: {site} left out, the cache lacks {_listed(store, keys)}."
        for name, sites in lacking.items()
        for site, keys in sites.items()
    ]
    return replace(wiring, jobs=tuple(jobs)), notes


def _listed(store: _Store, keys: list[Key]) -> str:
    names = [LOGITS[0] if key.is_logits else store.names(key)[0] for key in dict.fromkeys(keys)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _without(job: ObserveCall, sites: set[str]) -> ObserveCall:
    kept = {site: keys for site, keys in job.sites.items() if site not in sites}
    return replace(job, sites=kept, terms={} if "terms" in sites else job.terms)


def _replay(wiring: Wiring, store: _Store, context: Tokens, collector: Collector) -> None:
    """Feeds the activations in the order in which a pass would bring them."""
    needed = {key for job in wiring.jobs for key in job.needs}
    reads_out = any("readout" in job.analysis.wanted() for job in wiring.jobs)
    device = device_of(store.model) if reads_out and store.model is not None else None
    values: dict[Key, Tensor] = {}
    for key in sorted(needed, key=lambda k: (k.is_logits, k.index, not k.is_state)):
        value = store.get(key)
        if value is not None:
            values[key] = value if device is None else value.to(device)
    # The last value is the logits or the deepest state: NaN anywhere before has reached it.
    refuse_nan(next(reversed(values.values())), context)
    (stack,) = store.anatomy.stacks
    observer = Observer(store.model, wiring, lambda *_: {}, collector.take, on_copies=True)
    with torch.no_grad():
        collector.take(observer.replay({stack.name: context}, values))
