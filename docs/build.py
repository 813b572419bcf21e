"""Writes docs/README.md, docs/analyses/ and docs/experiments/ from docstrings and commands.

    python docs/build.py                     text only, in a few seconds
    python docs/build.py --figures RESULTS   figures too: RESULTS is what this command wrote:
                                             interp run -m demo-llama -p her --target her
                                             --control random-init -a (all)
                                             --set attention.maps=8 -o RESULTS
    python docs/build.py --phantoms          the verdicts too, in half a minute: docs/phantoms.md

The pages hold no words of their own: questions, formulas, caveats and sources are the docstrings',
columns and figures are those that an analysis or a finding declares, and the experiments are those
of the command line.
"""

from __future__ import annotations

import argparse
import inspect
import re
import shlex
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import interp
from interp.cli.experiments import ON_MODEL, ON_POSITIONS, ON_READOUTS, ON_RESULTS, ON_WORDS
from interp.contract.analysis import Analysis, Batch
from interp.contract.leaves import LEAVES, Leaf, PerHead, PerToken
from interp.contract.registry import get, names
from interp.contract.sites import SITES, TERM_HOOKS
from interp.contract.tokens import Tokens
from interp.models.readout import Readout
from interp.runs.provenance import versions

HERE = Path(__file__).parent
# Analyses of what demo-llama does not have, here learned positions.
OTHER_MODEL = {"positions": "demo"}
SECTIONS = {"Args:": "Arguments", "Attributes:": "Attributes", "Returns:": "Returns"}
SECTIONS |= {"Raises:": "Raises", "Return:": "Returns"}
SECTIONS |= {"Class attributes:": "Class attributes"}
NAMESPACES = ("experiments", "measures", "stats", "models", "prompts")

SHORT = 7  # the prompt of "her" that is short enough for a picture of all its tokens

# The analyses that an experiment on saved results reads.
READS = {
    "groups": "rotation",
    "predict": "path_length,next_token",
    "curvature": "token_curvature,next_token",
    "growth": "path_length",
    "steps": "next_token,settling,path_length --generate 24 --sample --samples 4",
    "depth": "logit_lens",
    "heads": "attention",
    "massive": "massive_activations",
    "rollout": f"attention --set attention.maps={SHORT + 1}",
    "compare": "rotation,random_pairs",
}
# The experiments on a series of checkpoints; docs/series.md says how those of `training` are made.
OF_SERIES = ("changes", "members", "states", "stability")
MAKES_SERIES = "interp series training/seed-0 -p demo -a rotation,logit_lens --out out"
# What the example of each page is called with, by the command's name.
M = "--model demo-llama"
EXAMPLES = {
    "groups": "out --value angle --by pos",
    "predict": "out --value path",
    "curvature": "out",
    "growth": "out --by pos",
    "steps": "out --controls demo-llama",
    "depth": "out",
    "heads": "out",
    "massive": "out",
    "rollout": f"out --prompt {SHORT}",
    "compare": "out --value angle --by role --a target --b previous",
    "nearest": f"' her' --minus ' his' {M}",
    "spaces": "demo-llama:W_E demo-llama:W_U --control random-init",
    "leave-out": f"--prompts her {M}",
    "layers": "demo-llama demo-llama --prompts her --control random-init",
    "drift": f"her --sense kind --prompts her {M}",
    "continuations": f"'Mary smiled. John thanked' 'Tom smiled. John thanked' {M}",
    "steer": f"--prompts her --token ' her, his' --toward ' her' --away ' his' --layers 6 "
    f"--positions last {M}",
    "cause": f"--prompts her --target her --positions role=target {M}",
    "fit tuned-lens": f"--prompts demo --file lens.safetensors {M}",
    "words near": f"her {M}",
    "words analogy": f"him he she {M}",
    "words axis": f"--to he,him --from she,her his the {M}",
    "words cosines": f"he him his she her {M}",
    "words graph": f"he him his she her the a because so --threshold 0.1 {M}",
    "words map": M,
    "words clusters": f"--min-size 5 {M}",
    "positions split": "'Mary smiled. John thanked her.' --sum scores --model demo",
    "changes": "out --value angle",
    "members": "out --a step-0 --b step-1024 --value angle --by pos",
    "states": "training/seed-0/step-512 training/seed-0/step-1024 --prompts demo",
    "stability": "training/seed-0",
    "positions shift": f"'Mary smiled. John thanked her.' --shifts 1,8 {M}",
}
# What a page documents beside the experiment itself: "module:name" below interp.
ALSO = {
    "compare": ["stats.comparison:Comparison"],
    "rollout": ["experiments.heads:rollout_maps"],
    "steer": ["experiments.dose_response:dose_response", "experiments.steering:Steer"],
    "cause": ["experiments.cause:Cause", "experiments.interventions:pushed"],
    "words near": ["experiments.words:WordVectors.nearest"],
    "words analogy": ["experiments.words:WordVectors.analogy"],
    "words axis": ["experiments.words:WordVectors.axis", "measures.axes:axis_separation"],
    "words cosines": [
        "experiments.words:WordVectors.cosines",
        "experiments.words:WordVectors.along",
    ],
    "words graph": ["experiments.words:WordVectors.graph"],
    "words map": ["experiments.words:WordVectors.pca", "experiments.words:WordVectors.tsne"],
    "words clusters": ["experiments.words:WordVectors.clusters"],
    "positions split": [
        "experiments.score_split:split_cosines",
        "experiments.score_split:split_scores",
        "experiments.score_split:split_distance",
        "experiments.score_split:Split",
    ],
}


class Experiment(NamedTuple):
    """A page below docs/experiments: a command and the functions behind it.

    Attributes:
        command: its words, such as "words near".
        functions: the experiment, and what else the page documents.
    """

    command: str
    functions: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Name of the page."""
        return self.command.replace(" ", "_")

    @property
    def example(self) -> str:
        """The command line that the page shows and its figure is of."""
        return f"interp {self.command} {EXAMPLES[self.command]}"

    @property
    def run(self) -> str:
        """The command line that makes the results it reads; empty where it reads none."""
        if self.command in OF_SERIES:
            return MAKES_SERIES if self.example.split()[2] == "out" else ""
        if self.command not in READS:
            return ""
        of = f"{M} --prompts her --target her --control random-init"
        return f"interp run {of} --analyses {READS[self.command]} --out out"

    @property
    def finding(self) -> Any:
        """The class of what the experiment returns."""
        function = self.functions[0]
        kind = inspect.signature(function).return_annotation
        return getattr(sys.modules[function.__module__], kind) if isinstance(kind, str) else kind


def _experiments() -> Iterator[Experiment]:
    made = [(m.name, m) for m in ON_RESULTS]
    made += [(m.name, m) for m in ON_MODEL]
    made += [(f"fit {m.name}", m) for m in ON_READOUTS]
    made += [(f"words {m.name}", m) for m in ON_WORDS]
    made += [(f"positions {m.name}", m) for m in ON_POSITIONS]
    places = {command: f"experiments.{m.experiment}" for command, m in made}
    for command, place in (places | {"compare": "stats.compare:compare"}).items():
        yield Experiment(command, tuple(map(_at, [place, *ALSO.get(command, ())])))


def _at(place: str) -> Any:
    """The object of "module:name" below interp."""
    module, _, name = place.partition(":")
    found: Any = import_module(f"interp.{module}")
    for part in name.split("."):
        found = getattr(found, part)
    return found


EXPERIMENTS: Mapping[str, Experiment] = {e.name: e for e in _experiments()}


# ---- text ------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """Every page by its path below docs/, without the figures."""
    out = {f"analyses/{name}.md": analysis_page(name) for name in names()}
    out |= {f"experiments/{name}.md": experiment_page(name) for name in EXPERIMENTS}
    return out | {"sites.md": sites_page(), "README.md": index_page()}


def analysis_page(name: str) -> str:
    kind = get(name)
    about = (inspect.getdoc(kind) or "").split("\n\n", 1)
    sites = ", ".join(f"`{s}`" for s in kind.wanted()) or "the weights only"
    parts = [
        f"# {name}",
        unwrapped(about[0]),
        f"```sh\n{run_command(name)}\n```",
        *_figure("analyses", name),
        *markdown(about[1] if len(about) > 1 else ""),
        "## Columns",
        _table(("column", "meaning and unit"), kind.columns.items()),
        f"Reads: {sites}. Scope: {kind.scope}.",
    ]
    null = [(p.title, p.if_null) for p in kind.plots if p.if_null]
    if null:
        parts += [
            "## Expected if there is no effect",
            _table(("figure", "what it would show"), null),
        ]
    return "\n\n".join(parts) + "\n"


def sites_page() -> str:
    """What the author of an analysis reads and returns: sites, the batch, the readout, leaves."""
    kinds = {"state": "layer", "block": "layer", "model": "model"}
    both = {"readout": "layer, model"}
    rows = ((n, both.get(n, kinds[s.kind]), s.axes, s.doc) for n, s in SITES.items())
    heads = ("site", "scope", "axes", "what it is")
    emitted = (PerToken, PerHead)
    leaves = [kind for name, kind in LEAVES.items() if name in interp.__all__]
    return "\n\n".join(
        [
            "# Sites, the readout and leaves",
            "What the author of an analysis reads and returns. An analysis names its sites, gets "
            "a batch with them, and returns leaves by name; [notebook 09]"
            "(../notebooks/09_write_your_own.py) writes one step by step.",
            "## Sites",
            "Scope `model` calls `observe` once for a batch, with all states stacked; scope "
            "`layer` once for each block l. `resid_next` is absent at the last block; a block "
            "without a required site is left out. `interp.inspect(model)` lists what a model has.",
            _rows(heads, rows),
            "The terms in `batch.terms` have these names, where a block has them: "
            + ", ".join(f"`{name}`" for name in TERM_HOOKS)
            + ".",
            "## What an analysis declares",
            *markdown(inspect.getdoc(Analysis) or ""),
            "## The batch",
            *markdown(inspect.getdoc(Tokens) or ""),
            *markdown(inspect.getdoc(Batch) or ""),
            *_methods(Batch, ("get", "weight", "running", "to_grid")),
            "## The readout",
            *markdown(inspect.getdoc(Readout) or ""),
            *_methods(Readout, ("logits", "logits_of", "lens", "top", "direction", "check")),
            "## What `observe` returns",
            _table(("leaf", "what it is"), ((k.__name__, _first(k)) for k in emitted)),
            "They become rows, or moments of groups of tokens (`keep=\"summary\"`). The others "
            "are sums of their own over all tokens; a table is made of those with a mark.",
            _rows(
                ("leaf", "in the table", "what it is"),
                ((k.__name__, _shown(k), _first(k)) for k in leaves),
            ),
            "An analysis may write `table(state)` itself. A leaf that is missing here is one class "
            "in the file of the analysis: see the recipe in [CONTRIBUTING.md](../CONTRIBUTING.md).",
            "## Depth in tables",
            unwrapped((inspect.getdoc(interp.Result.states) or "").split("\n\n", 1)[1]),
            *_methods(interp.Results, ("merged",)),
        ]
    ) + "\n"  # fmt: skip


def _methods(kind: Any, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        yield f"### `{kind.__name__}.{_signature(kind, name)}`"
        yield from markdown(inspect.getdoc(getattr(kind, name)) or "")


def _signature(kind: Any, name: str) -> str:
    found = inspect.signature(getattr(kind, name)).parameters.values()
    shown = [("*" if p.kind is p.VAR_POSITIONAL else "") + p.name for p in found]
    return f"{name}({', '.join(p for p in shown if p != 'self')})"


def _shown(kind: type[Leaf]) -> str:
    """A mark for a leaf of which the default table makes rows."""
    return "yes" if kind.records is not Leaf.records else ""


def run_command(name: str) -> str:
    """The command that runs one analysis."""
    prompts = "" if get(name).scope == "weights" else " --prompts her"
    model = OTHER_MODEL.get(name, "demo-llama")
    return f"interp run --model {model}{prompts} --analyses {name} --out out"


def experiment_page(name: str) -> str:
    experiment = EXPERIMENTS[name]
    first, *others = experiment.functions
    parts = [
        f"# {experiment.command}",
        _first(first),
        "\n".join(["```sh", *filter(None, [experiment.run, experiment.example]), "```"]),
        *_figure("experiments", name),
    ]
    if isinstance(question := experiment.finding.question, str):
        parts.append(question)
    # The page began with the first sentence of the experiment.
    parts += [f"## `{_called(first)}`", *list(markdown(inspect.getdoc(first) or ""))[1:]]
    for other in others:
        parts += [f"## `{_called(other)}`", *markdown(inspect.getdoc(other) or "")]
    # Of an `Answer` both are properties: it has them only once it was asked for.
    if isinstance(columns := experiment.finding.columns, Mapping) and columns:
        parts += ["## Columns", _table(("column", "meaning and unit"), columns.items())]
    return "\n\n".join(part for part in parts if part) + "\n"


def index_page() -> str:
    def listed(folder: str, found: dict[str, str]) -> str:
        rows = ((f"[{n}]({folder}/{n}.md)", first) for n, first in found.items())
        return _table(("page", "about"), rows)

    analyses = {n: _first(get(n)) for n in names()}
    experiments = {name: _first(e.functions[0]) for name, e in EXPERIMENTS.items()}
    return "\n\n".join(
        [
            "# What is measured, and how",
            "Generated by `python docs/build.py` from the docstrings. Every figure is of the "
            "embedded model that its command names; it speaks a small language of its own.",
            "## Analyses",
            "They observe a model while it runs, all in one pass: `interp run`, `interp.attach`.",
            listed("analyses", analyses),
            "## Experiments",
            "On saved results or on a model: a function that returns a finding, and a command.",
            listed("experiments", experiments),
            "## More",
            "[Findings on a real model](findings.md) · [phantoms](phantoms.md) · "
            "[sites, the readout and leaves](sites.md) · [models](models.md) · "
            "[what works with what](compatibility.md) · [the explorer](explorer.md) · "
            "[generation](generation.md) · [pairs of prompts](pairs.md) · "
            "[series of models](series.md) · [corpora](corpus.md) · [chat prompts](chat.md) · "
            "[word frequency](frequency.md) · [large vocabularies](vocabulary.md) · "
            "[speed](benchmarks.md)",
        ]
    ) + "\n"  # fmt: skip


def _first(thing: Any) -> str:
    return unwrapped((inspect.getdoc(thing) or "").split("\n\n", 1)[0])


def _called(function: Any) -> str:
    """How it is reached, with the names of its parameters."""
    reached = _reached(function)
    if inspect.isclass(function):
        return reached
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    return f"{reached}({', '.join(parameters)})"


def _reached(thing: Any) -> str:
    """The public name, through the namespace that has it."""
    first = thing.__qualname__.partition(".")[0]
    if first in interp.__all__:
        return f"interp.{thing.__qualname__}"
    for namespace in NAMESPACES:
        if hasattr(getattr(interp, namespace), first):
            return f"interp.{namespace}.{thing.__qualname__}"
    return f"{thing.__module__}.{thing.__qualname__}"


def _figure(folder: str, name: str) -> list[str]:
    path = HERE / "images" / folder / f"{name}.png"
    return [f"![{name}](../images/{folder}/{name}.png)"] if path.is_file() else []


def _table(heads: tuple[str, str], rows: Any) -> str:
    lines = [f"| {heads[0]} | {heads[1]} |", "|---|---|"]
    for name, text in rows:
        shown = name if name.startswith("[") or " " in name else f"`{name}`"
        lines.append(f"| {shown} | {_cell(text)} |")
    return "\n".join(lines)


def _rows(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table whose first cells are names."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, *cells in rows:
        lines.append("| " + " | ".join([f"`{name}`", *map(_cell, cells)]) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def unwrapped(text: str) -> str:
    """A paragraph on one line."""
    return " ".join(text.split())


def markdown(docstring: str) -> Iterator[str]:
    """The paragraphs of a docstring: sections become lists, doctests code."""
    for block in re.split(r"\n\s*\n", docstring.strip("\n")):
        if block.lstrip().startswith(">>>"):
            yield f"```python\n{textwrap.dedent(block).strip()}\n```"
        elif block.lstrip().startswith("- "):
            yield textwrap.dedent(block).strip()
        elif block.strip():
            yield from _paragraph(block.strip("\n").split("\n"))


def _paragraph(lines: list[str]) -> Iterator[str]:
    """A paragraph, and the sections that follow it or stand before it without an empty line."""
    at = next((i for i, line in enumerate(lines) if line.strip() in SECTIONS), len(lines))
    if at:
        yield unwrapped("\n".join(lines[:at]))
    if at == len(lines):
        return
    margin = _indent(lines[at])
    rest = lines[at + 1 :]
    end = next((i for i, line in enumerate(rest) if _indent(line) <= margin), len(rest))
    yield f"**{SECTIONS[lines[at].strip()]}**"
    yield _items(textwrap.dedent("\n".join(rest[:end])))
    if end < len(rest):
        yield from _paragraph(rest[end:])


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _items(text: str) -> str:
    """`name: what it is` with deeper lines that go on, as a list."""
    entries: list[str] = []
    for line in text.split("\n"):
        if line[:1].isspace() and entries:
            entries[-1] += " " + line.strip()
        else:
            entries.append(line.strip())
    named = (re.sub(r"^([\w`, .*]+?): ", r"`\1`: ", entry, count=1) for entry in entries)
    return "\n".join(f"- {entry.replace('``', '`')}" for entry in named)


# ---- figures ---------------------------------------------------------------------------------


def phantoms_page(found: Any) -> str:
    """Known and measured values of every analysis, and what is known of each phantom."""
    verdicts = [_verdicts(name, rows) for name, rows in found.frame.groupby("analysis")]
    uncovered = {name: ", ".join(f"`{c}`" for c in left) for name, left in found.open.items()}
    shown = ("column", "rows", "true", "measured", "distance", "tolerance", "verdict")
    columns = {_HEADS.get(c, c): found.columns[c] for c in shown}
    made = versions()
    return "\n\n".join(
        [
            "# Phantoms: does an analysis measure what is there?",
            "Written by `python docs/build.py --phantoms`, from the same numbers as "
            "`interp calibrate --all`.",
            "A phantom is a model with weights set by hand, an ordinary TransformerBridge of which "
            "the geometry is known before anything is measured. An analysis is run on the phantoms "
            "that concern it; a value that is further from the known one than rounding or sampling "
            "explains is missed, and the command ends with exit code 3. In the tests wrong copies "
            "of every analysis (each column a hundredth off, one per cent off, one layer shifted, "
            "a row lost, the mask ignored) are caught by a phantom or by a law of `interp check`.",
            "```sh\ninterp calibrate rotation\ninterp calibrate --all --out verdicts\n"
            "interp report out --phantoms --out with_verdicts.html\n```",
            "In Python: `interp.calibrate(\"rotation\")`. A plug-in returns trials of its own from "
            "the classmethod `phantoms` of its class; see CONTRIBUTING.md.",
            "## What is known",
            "\n".join(f"- **{n}**: {about}" for n, about in sorted(found.phantoms.items())),
            "## Known and measured values",
            "Each line shows the row of the table that is furthest from the known value, in units "
            f"of its tolerance. Measured with torch {made['torch']}; the errors are rounding, and "
            "differ a little between machines.",
            _table(("column", "meaning"), columns.items()),
            *(part for parts in verdicts for part in parts),
            "## Not certified",
            "Columns whose true value no phantom knows: mostly controls that are drawn at random, "
            "p-values and intervals.",
            _table(("analysis", "columns"), ((n, c) for n, c in uncovered.items() if c)),
        ]
    ) + "\n"  # fmt: skip


_HEADS = {"true": "known value", "measured": "measured", "distance": "error"}


def _verdicts(name: str, rows: Any) -> Iterator[str]:
    """One analysis: a line per column and phantom."""
    yield f"### {name}"
    lines = [
        "| phantom | column | rows | known value | measured | error | tolerance | verdict |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows.itertuples():
        known, seen = (_number(x, ".6g") for x in (row.true, row.measured))
        tolerance = "" if row.tolerance != row.tolerance else f"{row.tolerance:.1g}"
        lines.append(
            f"| {row.phantom} | {row.column} | {row.rows} | {known} | {seen} "
            f"| {_number(row.distance, '.1g')} | {tolerance}, {row.because} | {row.verdict} |"
        )
    yield "\n".join(lines)


def _number(x: float, spec: str) -> str:
    return "not defined" if x != x else f"{x:{spec}}"


def draw_figures(results: Path, only: list[str]) -> None:
    """The first figure of every analysis and of every experiment, as small pictures."""
    found = interp.load(results)
    others = {
        name: interp.run(model, None, name, progress=False)[name]
        for name, model in OTHER_MODEL.items()
        if not only or name in only
    }
    for name, result in (dict(found) | others).items():
        plots = [p for p in result.analysis.plots if p.kind != "attention"]
        if plots and (not only or name in only):
            options = {"prompt": 2} if name == "logit_lens" else {}  # the shortest of those kept
            save_picture(result.plot(plots[0].values, **options), "analyses", name)
    for name, experiment in EXPERIMENTS.items():
        if name not in OF_SERIES and (not only or name in only):
            words = shlex.split(experiment.example)[1:]
            asked = [str(results) if word == "out" else word for word in words]
            save_picture(_found(asked).plot(), "experiments", name)


def _found(arguments: list[str]) -> Any:
    """The finding that a command would print."""
    from unittest.mock import patch

    from typer.testing import CliRunner

    from interp.cli.app import app

    found: list[Any] = []

    def keep(finding: Any, *_: Any) -> None:
        found.append(finding)

    with patch("interp.cli.made.deliver", keep), patch("interp.cli.compare.deliver", keep):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    return found[0]


def save_picture(figure: Any, folder: str, name: str) -> None:
    from PIL import Image

    path = HERE / "images" / folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    width = int((figure.layout.meta or {}).get("width", 0))
    figure.write_image(path, width=max(820, width), scale=1)
    # Few colours: a third of the size. The usual median cut merges colours that few pixels have,
    # such as the end of a colour bar.
    whole = Image.open(path).convert("RGB")
    few = whole.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the pages of docs/.")
    parser.add_argument("--figures", type=Path, help="folder of saved results to draw from")
    parser.add_argument("--only", nargs="*", default=[], help="draw these only, by name")
    parser.add_argument("--phantoms", action="store_true", help="measure all phantoms anew")
    chosen = parser.parse_args()
    if chosen.phantoms:
        text = phantoms_page(interp.calibrate(names()))
        (HERE / "phantoms.md").write_text(text, encoding="utf-8")
    if chosen.figures:
        draw_figures(chosen.figures, chosen.only)
    for path, text in pages().items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
