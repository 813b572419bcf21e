"""Analyses attached to a model while its user runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp._arrays import Array
from interp._progress import INSPECTING, slow
from interp.contract.analysis import Analysis
from interp.contract.columns import refuse_taken
from interp.contract.jobs import NotFollowed, Pass
from interp.contract.kept import ALL, Kept
from interp.contract.options import check_options
from interp.contract.registry import resolve
from interp.contract.settings import configured
from interp.contract.tokens import Tokens
from interp.errors import BadInput, Unsupported
from interp.models.answers import Answers, answers_of, refuse_unanswered, second_answers
from interp.models.caches import Caches, Past, cache_in, cache_length
from interp.models.contexts import tokens_from_call, tokens_of
from interp.models.for_model import set_apart, special_ids_of
from interp.models.lens.blocks import kept_memory
from interp.models.observer import Observer
from interp.models.probe import inspect, refuse_training
from interp.prompts.label_values import plain, scalars
from interp.prompts.prompts import Prompts
from interp.runs.collect import Collector, label_column, observe_weights, token_columns, token_texts
from interp.runs.depth import merged_tables
from interp.runs.explorer.page import Explorer
from interp.runs.feed import by_stack
from interp.runs.provenance import answers_given, provenance_of, versions
from interp.runs.results import Result, Results
from interp.runs.run import DEFAULT

# ---- in the user's own workflow --------------------------------------------------------------


class _Texts:
    """Prompt numbers of the rows of every pass, by the caches that the passes continue.

    A prompt is one text: a row keeps its number as long as it goes on from the very end of that
    text. A row that goes on from an earlier place, or from one that another row continues already,
    is a branch and gets a number of its own (beam search, a cache used twice or cut back).
    """

    def __init__(self) -> None:
        self.caches = Caches()
        self.next_id = 0
        self.branches: dict[int, tuple[int, int]] = {}
        self._ends: dict[int, int] = {}

    def past(self, kwargs: Mapping[str, Any], rows: int, columns: int | None) -> Past | None:
        """Text that a call of `rows` rows continues, None if it begins texts.

        Args:
            columns: number of columns of its mask before those of its own tokens.
        """
        cache = cache_in(kwargs)
        length = cache_length(cache)
        if length == 0:
            return None
        found = self.caches.find(cache, length)
        if found is not None and len(found.ids) == rows:
            return found
        if length is None:
            length = columns or 0
        if not length:
            raise NotFollowed(
                "unseen",
                "it goes on from a cache whose beginning was not observed and which does not say "
                "how many tokens it holds; attach before the first pass",
            )
        return Past(torch.full((rows, length), -1), None, torch.full((rows,), -1))

    def numbered(self, context: Tokens) -> Tokens:
        """The same rows, with new numbers for those that begin a text or branch off from one."""
        before = context.key_tokens.shape[1] - context.tokens.shape[1]
        taken: set[int] = set()
        ids: list[int] = []
        new = self.next_id
        for number in context.ids.tolist():
            goes_on = before > 0 and self._ends.get(number) == before and number not in taken
            ids.append(number if goes_on else new)
            new += not goes_on
            taken.add(ids[-1])
        return replace(context, ids=context.ids.new_tensor(ids))

    def _owner(self, number: int, position: int) -> int:
        """The prompt under which the token before `position` of this text stands."""
        while number in self.branches and position <= self.branches[number][1]:
            number = self.branches[number][0]
        return number

    def take(self, parents: Tensor, context: Tokens, cache: Any) -> None:
        """Remembers a finished pass: its rows' texts go on from those numbered `parents`."""
        width = context.key_tokens.shape[1]
        before = context.key_mask[:, : width - context.tokens.shape[1]].sum(1).tolist()
        rows = zip(context.ids.tolist(), parents.tolist(), before, strict=True)
        for number, parent, position in rows:
            if number != parent and parent >= 0:
                # By the owner of that place, so that a branch of a branch leads to where its tokens
                # stand.
                self.branches[number] = (self._owner(parent, position), position)
            self._ends[number] = width
            self.next_id = max(self.next_id, number + 1)
        self.caches.remember(cache, context.key_tokens, context.key_mask, context.ids)


class _Known:
    """Prompts that were read before, found again in the rows of passes by their ids.

    A row is the longest prompt that it begins with: a generation goes on from its prompt.
    """

    def __init__(self, prompts: Prompts | None) -> None:
        self.prompts = prompts
        self._by_length: dict[int, dict[bytes, int]] = {}
        for i, ids in enumerate(prompts.tokens if prompts is not None else ()):
            self._by_length.setdefault(len(ids), {}).setdefault(ids.tobytes(), i)
        self._of_row: dict[int, int] = {}

    def mark(self, context: Tokens) -> Tokens:
        """The same tokens, special where those of the prompts are; remembers whose row is whose."""
        if self.prompts is None:
            return context
        special = context.special.clone()
        for row, number in enumerate(context.ids.tolist()):
            real = context.mask[row].nonzero().flatten()
            ids = context.tokens[row, real].cpu().numpy()
            if (found := self._find(ids)) is not None:
                self._of_row[number] = found
                own = torch.from_numpy(self.prompts.special[found].copy()).to(special.device)
                special[row, real[: len(own)]] |= own
        return replace(context, special=special)

    def _find(self, ids: Array) -> int | None:
        for n in sorted((n for n in self._by_length if n <= len(ids)), reverse=True):
            if (i := self._by_length[n].get(ids[:n].astype(np.int64).tobytes())) is not None:
                return i
        return None

    @property
    def labels(self) -> list[str]:
        """Names of the labels."""
        return [] if self.prompts is None else list(self.prompts.labels)

    def values(self, name: str, rows: pd.DataFrame) -> list[Any]:
        """The label of every row of a token table, None where its prompt is not known."""
        cells = self.prompts.labels[name] if self.prompts is not None else ()
        of = [self._of_row.get(n) for n in rows["prompt"].tolist()]
        places = zip(of, rows["position"].tolist(), strict=True)
        return [None if i is None or p >= len(cells[i]) else cells[i][p] for i, p in places]


class Probes(Mapping[str, Result], AbstractContextManager["Probes"]):
    """Analyses attached to a model while the user runs it; read as a mapping of results.

    Every forward pass adds rows: its prompts are numbered on, unless it continues a KV cache that
    an earlier pass left. Which prompt that is, is decided by the cache itself. Where several rows
    go on from one text (beam search, a copied cache), one keeps its number and the others are
    branches: their column `branch_of` says from which prompt, `branch_at` from which position on;
    the tokens before stand under that prompt. Column `call` counts the passes.

    A pass that cannot be observed correctly runs unchanged and is left out, with one warning per
    kind and a count in `provenance["attached"]["not_observed"]`.
    """

    def __init__(
        self,
        model: Any,
        analyses: Mapping[str, Analysis],
        prompts: Prompts | None = None,
        kept: Kept = ALL,
        targets: Any = None,
        against: Any = None,
    ) -> None:
        self.model, self.analyses = model, dict(analyses)
        with slow(INSPECTING):
            self.anatomy = inspect(model)
        self._collector = Collector(analyses, kept=kept)
        self._wiring = kept.wiring(self.anatomy.wire(list(analyses.values())))
        self._known = _Known(prompts)
        self.answer(targets, against)
        self._observer = Observer(
            model, self._wiring, self._contexts, self._take, guest=True, on_copies=True
        )
        self._open = ExitStack()
        self._texts = _Texts()
        refuse_taken(self._known.labels, analyses)
        self._parents: Tensor | None = None
        self._altered: set[int] = set()  # prompts whose states an analysis changed in place
        self._spoiled = False  # whether the pass under way goes on from such a prompt
        self._fed: list[tuple[str, dict[str, Array], int, Tensor, dict[str, list[Any]]]] = []
        self._calls = 0
        self._asked: list[tuple[Answers, Answers]] = []  # of the passes so far
        self._cached: Results | None = None
        self._labels: dict[str, Any] = {}
        self._special = special_ids_of(model)

    def __enter__(self) -> Probes:
        refuse_training(self.model)
        observe_weights(self.model, self.analyses, self._collector)
        with ExitStack() as stack:
            stack.enter_context(kept_memory())
            stack.enter_context(self._observer)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def label(self, **labels: Any) -> Probes:
        """Columns for the prompts of the passes to come, until they are labelled anew.

        Args:
            labels: by column, one value for every prompt, or one per prompt of a pass (a list);
                `label()` without any ends them.

        Returns itself, so that `probes.label(kind="garden path")` may stand before a call.
        Raises `BadInput` for the name of a column that the tables have.
        """
        refuse_taken(labels, self.analyses, rename=False)
        for name in labels:
            if name in self._known.labels:
                raise BadInput(f"label {name!r} comes with the prompts already; use another name")
        self._labels = labels
        return self

    def answer(self, targets: Any = None, against: Any = None) -> Probes:
        """Answers of the passes to come: one token, or a list with one for each prompt of a pass.

        Args:
            targets: whose logits are measured, in place of the next tokens.
            against: second answers, which the targets are compared with.

        Returns itself. Raises `BadInput` for text that is no one token of this model, and where
        an analysis compares two answers and there is one.
        """
        refuse_unanswered(self.analyses.values(), against)
        labels = self._known.labels
        ids = answers_of(self.model, targets, "targets", labels)
        if targets is not None and ids is None:
            raise BadInput("targets= takes one token, or one for each prompt of a pass")
        self._answers = ids, second_answers(self.model, against, labels)
        return self

    def _answered(self, contexts: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """The tokens of a pass with the answers that are asked for.

        Raises `NotFollowed` for another number of answers than prompts.
        """
        for ids in self._answers:
            for context in contexts.values():
                if isinstance(ids, list) and len(ids) != len(context.tokens):
                    raise NotFollowed(
                        "answers",
                        f"{len(ids)} answers were given and {_has(len(context.tokens))}; give one "
                        "token, or one for each prompt of a pass (probes.answer changes them "
                        "between passes)",
                    )
        return {stack: context.answered(*self._answers) for stack, context in contexts.items()}

    def _labels_of(self, n: int) -> dict[str, list[Any]]:
        """The labels of a pass of `n` prompts, one value each.

        Raises `NotFollowed` for another number of values than prompts.
        """
        out = {}
        for name, value in self._labels.items():
            cells = scalars(name, value) if _many(value) else [value] * n
            if len(cells) != n:
                raise NotFollowed("labels", f"label {name!r} has {len(cells)} values, {_has(n)}")
            out[name] = [plain(f"label {name!r}", i, cell) for i, cell in enumerate(cells)]
        return out

    def _contexts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Tokens]:
        names = [s.name for s in self.anatomy.stacks]
        tokens = tokens_of(args, kwargs)
        self._labels_of(len(tokens))  # left out before the pass, not after it
        self._refuse_broken_cache(kwargs, tokens)
        past = None
        if len(names) == 1:
            past = self._texts.past(kwargs, len(tokens), _columns_before(kwargs, tokens))
        if past is not None and bool((past.ids < 0).any()):
            self._observer.tell(
                "unseen",
                "this pass goes on from a KV cache whose beginning was not observed: the tokens "
                "before are unknown and its rows get new prompt numbers; attach before the first "
                "pass",
            )
        context = tokens_from_call(
            args,
            kwargs,
            first_id=self._texts.next_id,
            special_ids=self._special,
            pad_id=getattr(self.model.tokenizer, "pad_token_id", None),
            past=past,
        )
        self._spoiled = self._goes_on_from_spoiled(kwargs, past)
        self._parents = past.ids if past is not None else torch.full((len(tokens),), -1)
        context = self._texts.numbered(context)
        context = self._known.mark(context) if past is None else context
        context = set_apart(context, self.anatomy.stacks[0])
        if len(names) > 1:
            return self._answered(by_stack(self.anatomy, context, kwargs, self._special))
        return self._answered({names[0]: context})

    def _goes_on_from_spoiled(self, kwargs: Mapping[str, Any], past: Past | None) -> bool:
        """Whether a pass may read keys and values that an analysis has changed."""
        if not self._altered or cache_length(cache_in(kwargs)) == 0:
            return False
        # A cache that is not known may hold anything.
        return past is None or any(i < 0 or i in self._altered for i in past.ids.tolist())

    def _refuse_broken_cache(self, kwargs: Mapping[str, Any], tokens: Tensor) -> None:
        """Raises before a pass that continues a cache which the bridge does not use correctly."""
        cache = cache_in(kwargs)
        if cache is None or len(self.anatomy.stacks) > 1:
            return
        measured = self.anatomy.continuation.broken(tokens.shape[1])
        if self._texts.caches.was_dropped(cache):
            seen = "the pass before was given this cache and left it empty"
        elif measured is not None and (cache_length(cache) != 0 or _columns_before(kwargs, tokens)):
            seen = (
                f"relative difference {measured:.2g}, allowed "
                f"{self.anatomy.continuation.tolerance:.0e}"
            )
        else:
            return
        found = versions()
        raise Unsupported(
            "a pass that continues a KV cache does not give what the whole pass gives on "
            f"{self.anatomy.model} ({seen}; transformers {found['transformers']}, TransformerLens "
            f"{found['transformer-lens']}): what it generates is wrong, and tables of it would be. "
            "Generate with use_past_kv_cache=False (hf_generate and Hugging Face: "
            "use_cache=False), or by interp.generate, which does without a cache here"
        )

    def _take(self, finished: Pass) -> None:
        if not finished.contexts:
            self._texts.caches.forget(finished.cache)
            return
        if self._spoiled and not finished.spoiled:
            self._observer.spoil(
                finished, "it goes on from a pass in which an analysis changed an activation"
            )
        if finished.spoiled:
            for context in finished.contexts.values():
                self._altered.update(context.ids.tolist())
        self._collector.take(finished, partial(self._observer.fail, finished))
        self._cached = None
        for stack, context in finished.contexts.items():
            # Tables are made when they are read: one of pandas costs as much as a small pass.
            labels = self._labels_of(len(context.ids))
            self._fed.append((stack, token_columns(context), self._calls, context.ids, labels))
        first = next(iter(finished.contexts.values()))
        if self._parents is not None:
            self._texts.take(self._parents, first, finished.cache)
        self._calls += 1
        self._asked.append(self._answers)

    @property
    def results(self) -> Results:
        """Results of all passes so far, as `run` would return them."""
        if self._cached is None:
            self._cached = self._collector.results(
                self._tokens(),
                provenance_of(self.model, self.anatomy, self.analyses, None)
                | {"attached": self._attached()}
                | answers_given(self.model, *self._answers_so_far()),
                self.anatomy,
                self.model,
            )
            for result in self._cached.values():
                result.notes += tuple(self._unobserved(result.name))
        return self._cached

    def _answers_so_far(self) -> list[Any]:
        """Targets and second answers: of all passes if they are the same, else a list by pass."""
        given = (list(each) for each in zip(*self._asked, strict=True))
        return [x[0] if all(y == x[0] for y in x) else x for x in given] or [None, None]

    def _attached(self) -> dict[str, Any]:
        return {
            "calls": self._calls,
            "hooks_lost": self._observer.lost_hooks,
            "not_observed": dict(self._observer.unobserved),
        }

    def _unobserved(self, name: str) -> Iterator[str]:
        for kind, n in self._observer.unobserved.items():
            if kind.startswith(f"{self.analyses[name].name()}: ") or ": " not in kind:
                yield f"Not observed, or not wholly: {n} passes ({kind})."

    def _table_of(
        self,
        stack: str,
        columns: dict[str, Array],
        call: int,
        ids: Tensor,
        labels: dict[str, list[Any]],
    ) -> pd.DataFrame:
        rows = pd.DataFrame({"stack": stack, **columns}).assign(call=call)
        for name, values in labels.items():
            of = dict(zip(ids.tolist(), values, strict=True))
            rows[name] = pd.Series([of[i] for i in rows["prompt"]], rows.index, dtype=object)
        return rows if stack else rows.drop(columns="stack")

    def _tokens(self) -> pd.DataFrame:
        columns = ["prompt", "position", "token_id", "special", "call"]
        tables = [self._table_of(*fed) for fed in self._fed]
        rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
        texts = token_texts(rows, self.model.tokenizer)
        rows.insert(list(rows).index("token_id"), "token", texts)
        labels = [str(c) for c in rows if c not in (*columns, "token", "stack")]
        rows = rows.assign(**{name: label_column(rows[name]) for name in labels})
        for name in self._known.labels:
            cells = self._known.values(name, rows)
            rows[name] = label_column(pd.Series(cells, rows.index, dtype=object))
        if self._texts.branches:
            origin = rows["prompt"].map(self._texts.branches)
            for place, name in enumerate(("branch_of", "branch_at")):
                values = [b[place] if isinstance(b, tuple) else None for b in origin]
                rows[name] = pd.array(values, dtype="Int64")
        return rows

    def merged(self, *names: str, how: str = "outer", heads: str | None = None) -> pd.DataFrame:
        """Several tables as one, a row per token and state, as `Results.merged` gives them."""
        layers = self._collector.kept.layers
        return merged_tables([self[name] for name in names], layers, how, heads)

    def explore(self, title: str | None = None, **options: Any) -> Explorer:
        """The explorer of the passes so far, as `Results.explore` makes it."""
        return self.results.explore(title, **options)

    def report(self, path: str | Path = "report.html", **options: Any) -> Path:
        """Writes the report of the passes so far, as `Results.report` does; returns its path."""
        return self.results.report(path, **options)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the tables of the passes so far, as `Results.save` does; returns the folder."""
        return self.results.save(folder, overwrite=overwrite)

    def __getitem__(self, name: str) -> Result:
        result = self.results[name]
        failure = self._observer.failures.get(result.analysis)
        if failure is not None and not self._collector.states[name]:
            raise failure  # there is nothing else to tell of it
        return result

    def __iter__(self) -> Any:
        return iter(self.analyses)

    def __len__(self) -> int:
        return len(self.analyses)

    def __repr__(self) -> str:
        return f"<Probes on {self.anatomy.model}: {', '.join(self.analyses)}; {self._calls} passes>"


def _columns_before(kwargs: Mapping[str, Any], tokens: Tensor) -> int:
    """Columns of a mask `[batch, pos]` before those of the tokens that a call brings."""
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return 0
    return max(mask.shape[1] - tokens.shape[1], 0)


def _has(prompts: int) -> str:
    return f"the pass has {prompts} prompt{'' if prompts == 1 else 's'}"


def _many(value: Any) -> bool:
    several = (Sequence, np.ndarray, pd.Series, Tensor)
    return isinstance(value, several) and not isinstance(value, str)


def attach(
    model: Any,
    *analyses: str | Analysis | type[Analysis],
    prompts: Prompts | None = None,
    targets: Any = None,
    against: Any = None,
    layers: Any = None,
    positions: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> Probes:
    """Watches a model while you run it: `with interp.attach(model, "rotation") as probes:`.

    Everything that reaches the model inside the block is observed: `model(...)`,
    `run_with_hooks`, `run_with_cache`, `generate`. Your own hooks stay, and the tables show the
    stream as they leave it. Leaving the block takes every hook off, also after an error.

    The first call on a model inspects it with a few passes, which takes seconds on a large one; a
    line in the terminal or notebook says so, and what was found is kept.

    Args:
        model: a bridge.
        analyses: names, classes or instances.
        prompts: read before (`interp.read_prompts`), such as chat messages. A row of a pass that is
            one of them by its ids, or begins with it, has its labels per token and its special
            tokens, which the ids alone do not tell (the role of each token of a chat).
        targets: whose logits are measured in place of the next tokens: one token, `" her"`, or a
            list with one for each prompt of a pass. `probes.answer(…)` changes them between passes.
        against: second answers, which `logit_difference` and `logit_attribution` compare with.
        layers: keep the rows of these layers only, by the numbers in the column `layer`; negative
            ones count from the end of each table.
        positions: keep the rows of these positions only; -1, or "last", is the last token of each
            prompt of a pass.
        settings: parameters of analyses by name, `{"logit_lens": {"top_k": 3}}` or
            `{"logit_lens.top_k": 3}`.

    Raises `BadInput` for a model in training mode, `UnknownName`, `Unsupported` as `run` does;
    `Unsupported` before a pass that continues a KV cache where the bridge does not continue it
    rightly (`inspect` measures that). What else cannot be observed is left out with a warning and
    never ends a pass; reading an analysis of which nothing could be observed raises why.

    An analysis must change nothing that it reads. The first time that one of yours reads a block it
    is shown copies; if it changes them, it is called no more and the pass is unharmed. One that
    begins to change activations later has altered that pass, which cannot be undone: all analyses
    leave the pass out, and what goes on from its KV cache. A change past torch's count (`x.data`,
    NumPy) is seen on the copies only.
    """
    if prompts is not None and not isinstance(prompts, Prompts):
        raise BadInput(
            f"prompts= is {type(prompts).__name__}; read them first, as the passes will have them: "
            "interp.read_prompts(prompts, model.tokenizer)"
        )
    check_options(settings=settings)
    chosen = configured(resolve(analyses or DEFAULT), settings)
    return Probes(model, chosen, prompts, Kept.of(layers, positions), targets, against)
