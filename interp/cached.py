"""Analyses over activations that were cached earlier: no pass is run for them.

`from_cache` resolves the sites in what `run_with_cache` returned and hands them to the same
observer that `run` and `attach` feed. Knows names and shapes; knows nothing of hooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp._calls import device_of
from interp.analysis import Analysis
from interp.anatomy import Anatomy
from interp.errors import BadInput, Unsupported
from interp.for_model import set_apart, special_ids_of
from interp.observer import Context, Job, Key, Observer, Wiring, contexts_from_call
from interp.probe import inspect, inspect_activations, output_transform
from interp.prompts import read_prompts
from interp.registry import resolve
from interp.results import Results
from interp.runner import DEFAULT, Collector, Wanted, provenance_of, refuse_nan, weigh
from interp.sites import SITES, state_names

TOKENS = ("embed.hook_in", "hook_tokens")
LOGITS = ("unembed.hook_out", "hook_unembed")
_SHOWN = 100


def from_cache(
    cache: Any,
    analyses: Wanted = DEFAULT,
    *,
    tokens: Any = None,
    model: Any = None,
    mask: Any = None,
) -> Results:
    """Run analyses over an `ActivationCache` and return the tables that `run` gives.

    Args:
        cache: what `run_with_cache` returned beside the logits: an `ActivationCache` or a plain
            mapping, with or without the batch dimension.
        analyses: names, classes or instances.
        tokens: `[batch, pos]` ids that the model was given; not needed where the cache has them,
            as a whole cache of a TransformerBridge does.
        model: the model that was run; by default the one that the cache carries. Without one the
            sites are verified on the cached activations themselves, and what reads the
            vocabulary (`logit_lens`) or the weights is refused. It must have the weights that it
            had then.
        mask: `[batch, pos]`, true for real tokens. Without one, rows that end in padding tokens
            while others do not are taken as right-padded, as `attach` does.

    The final logits are those of the cache (`unembed.hook_out`), else they are read out from the
    last state, in which case the lens agrees with itself at the last state by construction;
    which one it was stands in the notes and the provenance.

    Raises `Unsupported` where the cache lacks what an analysis needs, with the hook names to
    cache; `BadInput` where tokens and cache do not fit.
    """
    values, model = _opened(cache, model)
    chosen = resolve(analyses)
    _refuse_without_model(chosen, model)
    ids = _tokens(values, tokens)
    context = _context(ids, mask, model)
    anatomy = inspect(model) if model is not None else inspect_activations(values, context.mask)
    context = set_apart(context, anatomy.stacks[0])
    if len(anatomy.stacks) != 1:
        raise Unsupported("from_cache reads models with one stack of blocks; use run or attach")
    store = _Store(values, tuple(ids.shape), anatomy, model)
    jobs, notes = _servable(anatomy.wire(list(chosen.values())), store)
    collector = Collector(chosen)
    if jobs:
        _replay(jobs, store, context, collector)
    weigh(model, chosen, collector)
    prompts = read_prompts(
        ids.cpu(),
        getattr(model, "tokenizer", None),
        mask=context.mask.cpu(),
        prepend_bos=False,
        special_ids=[] if model is None else special_ids_of(model),
    )
    prompts = replace(prompts, massive_first=anatomy.stacks[0].massive_first)
    provenance = provenance_of(model, anatomy, chosen, prompts)
    provenance["cache"] = {"final_logits": store.logits_from, "notes": notes}
    results = collector.results(prompts.index(), provenance, anatomy, model)
    if store.logits_from and store.logits_from not in LOGITS:
        notes = [*notes, f"Final logits were not in the cache; they are the {store.logits_from}."]
    for result in results.values():
        result.notes = (*result.notes, *notes)
    return results


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


def _tokens(values: Mapping[str, Any], given: Any) -> Tensor:
    cached = next((values[n] for n in TOKENS if isinstance(values.get(n), Tensor)), None)
    if cached is not None and cached.is_floating_point():
        cached = None
    if given is None and cached is None:
        raise BadInput(
            f"this cache does not hold the tokens ({' or '.join(TOKENS)}): pass tokens=, the ids "
            "[batch, pos] that were given to run_with_cache"
        )
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


def _context(ids: Tensor, mask: Any, model: Any) -> Context:
    mask = None if mask is None else _rows(mask)
    if mask is not None and mask.shape != ids.shape:
        raise BadInput(f"mask {tuple(mask.shape)} does not fit the tokens {tuple(ids.shape)}")
    return contexts_from_call(
        (),
        {"input_ids": ids, "attention_mask": mask},
        first_id=0,
        special_ids=[] if model is None else special_ids_of(model),
        pad_id=getattr(getattr(model, "tokenizer", None), "pad_token_id", None),
        earlier=None,
    )


class _Store:
    """The cached activations by key, with the batch dimension put back."""

    def __init__(
        self, values: Mapping[str, Any], shape: tuple[int, ...], anatomy: Anatomy, model: Any
    ) -> None:
        self.values, self.shape, self.anatomy, self.model = values, shape, anatomy, model
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
            self._found[key] = self._logits() if key[1] == "logits" else self._activation(key)
        return self._found[key]

    def names(self, key: Key) -> list[str]:
        """Every name that this activation may have, the one to cache first."""
        (stack,) = self.anatomy.stacks
        source = self.anatomy.source(key)
        first = [source] if source else []
        if key[1] == "state":
            first += state_names(stack.stack.path, key[2], stack.n_blocks)
        others = [n for name in first for n in self._names_of.get(self._point_of.get(name, -1), [])]
        return list(dict.fromkeys([*first, *others]))

    def _activation(self, key: Key) -> Tensor | None:
        here = [n for n in self.names(key) if isinstance(self.values.get(n), Tensor)]
        axes = _axes(key)
        for name in here:
            value: Tensor = self.values[name]
            value = value if value.ndim == len(axes) else value[None]
            if self._fits(value, axes):
                return value
        if here:
            seen = tuple(self.values[here[0]].shape)
            raise BadInput(
                f"{here[0]} is {seen} in the cache, which does not fit the tokens {self.shape}; "
                "was it cached from other tokens, or with pos_slice?"
            )
        return None

    def _fits(self, value: Tensor, axes: tuple[str, ...]) -> bool:
        batch, length = self.shape
        expected = {"batch": batch, "pos": length, "query": length, "key": length}
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
                if value.shape[:2] == self.shape:
                    self.logits_from = name
                    logits: Tensor = output_transform(self.model)(value)
                    return logits
        last = self.get((stack.name, "state", stack.n_blocks))
        if self.anatomy.readout is None or last is None:
            return None
        self.logits_from = f"readout of the last state, {self.anatomy.readout.path}"
        return self.anatomy.readout.logits(last.to(device_of(self.model)))


def _axes(key: Key) -> tuple[str, ...]:
    site = "terms" if key[1] == "state" or key[1].startswith("term:") else key[1]
    return tuple(SITES[site].axes.split())


def _servable(wiring: Wiring, store: _Store) -> tuple[Wiring, list[str]]:
    """The jobs that this cache can serve, and what was left out; refuses what is needed."""
    lacking: dict[str, dict[str, list[Key]]] = {}
    for job in wiring.jobs:
        absent = {k for k in job.needs if store.get(k) is None}
        if needed := sorted(absent & job.required, key=lambda k: k[2]):
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
    names = [
        store.names(key)[0] if key[1] != "logits" else LOGITS[0] for key in dict.fromkeys(keys)
    ]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _without(job: Job, sites: set[str]) -> Job:
    kept = {site: keys for site, keys in job.sites.items() if site not in sites}
    return replace(job, sites=kept, terms={} if "terms" in sites else job.terms)


def _replay(wiring: Wiring, store: _Store, context: Context, collector: Collector) -> None:
    """Feed the activations in the order in which a pass would bring them."""
    needed = {key for job in wiring.jobs for key in job.needs}
    reads_out = any("readout" in job.analysis.wanted() for job in wiring.jobs)
    device = device_of(store.model) if reads_out and store.model is not None else None
    values: dict[Key, Tensor] = {}
    for key in sorted(needed, key=lambda k: (k[1] == "logits", k[2], k[1] != "state")):
        value = store.get(key)
        if value is not None:
            values[key] = value if device is None else value.to(device)
    refuse_nan(next(reversed(values.values())), context)
    (stack,) = store.anatomy.stacks
    observer = Observer(store.model, wiring, lambda *_: {}, collector.take)
    with torch.no_grad():
        collector.take(observer.replay({stack.name: context}, values))
