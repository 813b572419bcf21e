"""Writes docs/README.md, docs/analyses/ and docs/experiments/ from what the library says of itself.

    python docs/build.py                     text only, in a few seconds
    python docs/build.py --figures RESULTS   figures too: RESULTS is what this command wrote:
                                             interp run -m demo-llama -p her --target her
                                             --control random-init -a (all) -o RESULTS

The pages hold no word of their own: questions, formulas, caveats and sources are the docstrings',
columns and figures those that an analysis declares.
"""

from __future__ import annotations

import argparse
import inspect
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import interp
from interp.contract.registry import get, names
from interp.experiments import continuations as continuation_columns
from interp.experiments import drift as drift_columns
from interp.experiments import spaces as spaces_columns
from interp.experiments.continuations import continuation_divergence
from interp.experiments.growth import Growth
from interp.experiments.heads import rollout_table

HERE = Path(__file__).parent
# Analyses of what demo-llama does not have, here learned positions.
OTHER_MODEL = {"positions": "demo"}
SECTIONS = {"Args:": "Arguments", "Attributes:": "Attributes", "Returns:": "Returns"}
SECTIONS |= {"Raises:": "Raises", "Return:": "Returns"}

# Name, what it documents, its command line, and columns that stand in no docstring.
Experiment = tuple[tuple[Callable[..., Any], ...], str, dict[str, str]]
M = "--model demo-llama"
STEER = f"--targets ' her, his' --toward ' her' --away ' his' --layers 6 --positions last {M}"
VECTORS = interp.WordVectors
EXPERIMENTS: dict[str, Experiment] = {
    "groups": ((interp.experiments.by_group,), "interp groups out --value angle --by pos", {}),
    "predict": ((interp.experiments.path_prediction,), "interp predict out --value path", {}),
    "growth": ((interp.experiments.growth_rate, Growth), "interp growth out --by pos", {}),
    "depth": ((interp.experiments.decision_depth,), "interp depth out", {}),
    "heads": ((interp.experiments.head_types,), "interp heads out", {}),
    "rollout": ((interp.experiments.rollout, rollout_table), "interp rollout out --prompt 0", {}),
    "nearest": (
        (interp.experiments.nearest_tokens,),
        f"interp nearest ' her' --minus ' his' {M}",
        {},
    ),
    "words_near": ((VECTORS.nearest,), f"interp words near her {M}", {}),
    "words_analogy": ((VECTORS.analogy,), f"interp words analogy him he she {M}", {}),
    "words_axis": (
        (VECTORS.axis, interp.measures.axis_separation),
        f"interp words axis --to he,him --from she,her his the {M}",
        {},
    ),
    "words_cosines": (
        (VECTORS.cosines, VECTORS.along),
        f"interp words cosines he him his she her {M}",
        {},
    ),
    "words_graph": (
        (VECTORS.graph,),
        f"interp words graph he him his she her the a because so --threshold 0.1 {M}",
        {},
    ),
    "words_map": ((VECTORS.pca, VECTORS.tsne), f"interp words map {M}", {}),
    "words_clusters": ((VECTORS.clusters,), f"interp words clusters --min-size 5 {M}", {}),
    "spaces": (
        (interp.experiments.compare_spaces,),
        "interp spaces demo-llama:W_E demo-llama:W_U --control random-init",
        spaces_columns.COLUMNS,
    ),
    "layers": (
        (interp.experiments.compare_layers,),
        "interp layers demo-llama demo-llama --prompts her --control random-init",
        {},
    ),
    "drift": (
        (interp.experiments.contextual_drift,),
        f"interp drift her --sense kind --prompts her {M}",
        drift_columns.COLUMNS,
    ),
    "continuations": (
        (continuation_divergence,),
        f"interp continuations 'Mary smiled. John thanked' 'Tom smiled. John thanked' {M}",
        continuation_columns.COLUMNS,
    ),
    "steer": (
        (interp.experiments.dose_response, interp.experiments.Steer),
        f"interp steer --prompts her {STEER}",
        {},
    ),
    "positions_split": (
        (
            interp.experiments.split_cosines,
            interp.experiments.split_scores,
            interp.experiments.split_distance,
            interp.experiments.Split,
        ),
        "interp positions split 'Mary smiled. John thanked her.' --of scores --model demo",
        {},
    ),
    "positions_shift": (
        (interp.experiments.shift_test,),
        f"interp positions shift 'Mary smiled. John thanked her.' --shifts 1,8 {M}",
        {},
    ),
    "compare": (
        (interp.compare, interp.stats.Comparison),
        "interp compare out --value angle --between role -a target -b previous",
        {},
    ),
}


# ---- text ------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """Every page by its path below docs/, without the figures."""
    out = {f"analyses/{name}.md": analysis_page(name) for name in names()}
    out |= {f"experiments/{name}.md": experiment_page(name) for name in EXPERIMENTS}
    return out | {"README.md": index_page()}


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
        parts += ["## Expected if there is no effect", _table(("figure", "it would show"), null)]
    return "\n\n".join(parts) + "\n"


def run_command(name: str) -> str:
    """The command that runs one analysis."""
    prompts = "" if get(name).scope == "weights" else " --prompts her"
    model = OTHER_MODEL.get(name, "demo-llama")
    return f"interp run --model {model}{prompts} --analyses {name} --out out"


def experiment_page(name: str) -> str:
    functions, command, columns = EXPERIMENTS[name]
    first = (inspect.getdoc(functions[0]) or "").split("\n\n", 1)[0]
    parts = [
        f"# {name.replace('_', ' ')}",
        unwrapped(first),
        f"```sh\n{command}\n```",
        *_figure("experiments", name),
    ]
    for function in functions:
        said = list(markdown(inspect.getdoc(function) or ""))
        # The page began with the first sentence of the first function.
        parts += [f"## `{_called(function)}`", *said[function is functions[0] :]]
    if columns:
        parts += ["## Columns", _table(("column", "meaning and unit"), columns.items())]
    return "\n\n".join(parts) + "\n"


def index_page() -> str:
    def listed(folder: str, found: dict[str, str]) -> str:
        rows = ((f"[{n}]({folder}/{n}.md)", first) for n, first in found.items())
        return _table(("page", "about"), rows)

    analyses = {n: _first(get(n)) for n in names()}
    experiments = {n: _first(functions[0]) for n, (functions, _, _) in EXPERIMENTS.items()}
    return "\n\n".join(
        [
            "# What is measured, and how",
            "Generated by `python docs/build.py` from the docstrings; the figures are of the "
            "embedded model that the command above them names, which speaks a small language of "
            "its own.",
            "## Analyses",
            "Attached to a model; one pass serves all: `interp run`, `interp.attach`.",
            listed("analyses", analyses),
            "## Experiments",
            "On saved results, or on a model; each is a function and a command.",
            listed("experiments", experiments),
            "## More",
            "[Models](models.md) · [what works with what](compatibility.md) · "
            "[corpora](corpus.md) · [large vocabularies](vocabulary.md) · [speed](benchmarks.md)",
        ]
    ) + "\n"  # fmt: skip


def _first(thing: Any) -> str:
    return unwrapped((inspect.getdoc(thing) or "").split("\n\n", 1)[0])


def _called(function: Any) -> str:
    """How it is reached, with the names of its parameters."""
    if inspect.isclass(function):
        return function.__name__
    where = "" if "." in function.__qualname__ else "interp."
    known = function.__name__ in interp.__all__ or not where
    where = where if known else f"{function.__module__}."
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    return f"{where}{function.__qualname__}({', '.join(parameters)})"


def _figure(folder: str, name: str) -> list[str]:
    path = HERE / "images" / folder / f"{name}.png"
    return [f"![{name}](../images/{folder}/{name}.png)"] if path.is_file() else []


def _table(heads: tuple[str, str], rows: Any) -> str:
    lines = [f"| {heads[0]} | {heads[1]} |", "|---|---|"]
    for name, text in rows:
        shown = name if name.startswith("[") or " " in name else f"`{name}`"
        lines.append(f"| {shown} | {_cell(text)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def unwrapped(text: str) -> str:
    """A paragraph on one line."""
    return " ".join(text.split())


def markdown(docstring: str) -> Iterator[str]:
    """The paragraphs of a docstring: sections become lists, doctests code."""
    for block in re.split(r"\n\s*\n", docstring.strip("\n")):
        head, _, rest = block.strip("\n").partition("\n")
        if head.strip() in SECTIONS and rest:
            yield f"**{SECTIONS[head.strip()]}**"
            yield from _items(textwrap.dedent(rest))
        elif block.lstrip().startswith(">>>"):
            yield f"```python\n{textwrap.dedent(block).strip()}\n```"
        elif block.lstrip().startswith("- "):
            yield textwrap.dedent(block).strip()
        elif block.strip():
            yield from _paragraph(block)


def _paragraph(block: str) -> Iterator[str]:
    """A paragraph, and the section that follows it without an empty line."""
    lines = block.strip().split("\n")
    starts = [i for i, line in enumerate(lines) if line.strip() in SECTIONS]
    at = starts[0] if starts else len(lines)
    if at:
        yield unwrapped("\n".join(lines[:at]))
    if at < len(lines):
        yield from markdown("\n".join(lines[at:]))


def _items(text: str) -> Iterator[str]:
    """`name: what it is` with deeper lines that go on, as a list."""
    entries: list[str] = []
    after: list[str] = []
    for line in text.split("\n"):
        target = after if after or _opens(line) else entries
        if line[:1].isspace() and target:
            target[-1] += " " + line.strip()
        else:
            target.append(line.strip())
    named = (re.sub(r"^([\w`, .*]+?): ", r"`\1`: ", entry, count=1) for entry in entries)
    yield "\n".join(f"- {entry.replace('``', '`')}" for entry in named)
    if after:
        yield from markdown("\n".join(after))


def _opens(line: str) -> bool:
    """Whether a line ends the list: another section begins, at the margin."""
    return line.split(" ")[0] in SECTIONS


# ---- figures ---------------------------------------------------------------------------------


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
            _save(result.plot(plots[0].values), "analyses", name)
    for name in only or EXPERIMENTS:
        if name not in EXPERIMENTS:
            continue
        _, command, _ = EXPERIMENTS[name]
        words = [str(results) if w == "out" else w for w in shlex.split(command)[1:]]
        _save(_compared(found) if name == "compare" else _sheet_figure(words), "experiments", name)


def _compared(found: interp.Results) -> Any:
    return interp.compare(found["rotation"], "angle", "role", "target", "previous").plot()


def _sheet_figure(arguments: list[str]) -> Any:
    """The first figure of the page that a command would write."""
    from typer.testing import CliRunner

    from interp.cli import experiments, spaces
    from interp.cli import steering as acting
    from interp.cli import words as vectors
    from interp.cli.app import app

    sheets: list[Any] = []
    modules = (acting, experiments, spaces, vectors)
    before = [module.deliver for module in modules]
    for module in modules:
        module.deliver = lambda sheet, *_: sheets.append(sheet)
    try:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    finally:
        for module, deliver in zip(modules, before, strict=True):
            module.deliver = deliver
    return next(iter(sheets[0].figures.values()))()


def _save(figure: Any, folder: str, name: str) -> None:
    from PIL import Image

    path = HERE / "images" / folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    width = int((figure.layout.meta or {}).get("width", 0))
    figure.write_image(path, width=max(820, width), scale=1)
    # Few colours: a third of the size.
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the pages of docs/.")
    parser.add_argument("--figures", type=Path, help="folder of saved results to draw from")
    parser.add_argument("--only", nargs="*", default=[], help="draw these only, by name")
    chosen = parser.parse_args()
    if chosen.figures:
        draw_figures(chosen.figures, chosen.only)
    for path, text in pages().items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
