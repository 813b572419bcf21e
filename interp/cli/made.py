"""Commands made from experiments: options are a function's parameters, help is its docstring.

Signature and docstring are read as text, so that `interp --help` imports no experiment. The name
and type of a parameter decide its option: `results` is the folder of a run, `model` and `prompts`
are options that commands share, `vectors` is a model's matrix or a file, a sequence is written with
commas. The help of an option is the entry of the docstring's "Args:" up to the words "In Python".
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from interp._progress import stage
from interp.cli.app import (
    TEXT,
    Bos,
    Device,
    Dtype,
    Json,
    ModelOption,
    OutFolder,
    Overwrite,
    Quiet,
    RunFolder,
    Special,
    TextColumn,
    about,
    deliver,
    prompts_typed,
    refuse_taken,
    split,
)
from interp.errors import BadInput

FOLDER = Path(__file__).parent.parent / "experiments"
NO = "none"  # an empty sequence, which cannot be written with commas
# For Python only.
HIDDEN = ("confidence", "labels", "frequency", "join", "at_least", "direction", "max_tokens")
PYTHON = "In Python"  # of a parameter's documentation, what follows is for Python only

Matrix = Annotated[
    str, typer.Option("--matrix", help="The model's matrix that holds the words: W_E or W_U.")
]
Vectors = Annotated[
    Path | None,
    typer.Option("--vectors", help="A file of word vectors (word2vec or GloVe), not a model."),
]
Centred = Annotated[
    bool, typer.Option("--centred", help="Subtract the mean vector from all words first.")
]
Prompts = Annotated[
    str,
    typer.Option(
        "--prompts",
        "-p",
        help="A file (.txt .jsonl .csv .parquet), or a built-in set: her, demo.",
    ),
]


@dataclass(frozen=True)
class Made:
    """A command and the experiment behind it.

    Attributes:
        name: of the command.
        experiment: "module:function" below `interp.experiments`.
        by_place: parameters that are arguments instead of options.
        options: flags of parameters whose option has another name.
        defaults: values of parameters that have none in Python.
        models: arguments that are models, to be loaded.
        folder: the argument for saved results.
        needs: analyses that results must have, those of the defaults; for the help.
    """

    name: str
    experiment: str
    by_place: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    folder: Any = RunFolder
    needs: tuple[str, ...] = ()


def add(app: typer.Typer, made: Made, panel: str | None = None) -> None:
    """Register the command on an app."""
    app.command(name=made.name, rich_help_panel=panel)(command_of(made))


def command_of(made: Made) -> Callable[..., None]:
    """The function of the command, with the signature that typer reads."""
    source = _source_of(made.experiment)
    asked = [p for p in source.parameters if p.name not in HIDDEN]
    shown = [each for p in asked for each in _shown(p, made)]
    writes = any(p.name == "overwrite" for p in asked)

    def command(**given: Any) -> None:
        folder, as_json = given.pop("out_folder"), given.pop("as_json")
        # An experiment that writes a file itself has the option too.
        overwrite = given["overwrite"] if writes else given.pop("overwrite")
        refuse_taken(folder, overwrite)
        # Before the heavy imports, which alone take seconds; a script with JSON does not watch.
        with stage(_first(given, made), enabled=not (given["quiet"] or as_json)):
            import_module(_module(made.experiment))
            inputs = _inputs(asked, given, made.models)
        found = _run(made.experiment, asked, inputs)
        deliver(found.with_about(**about(made.name, **_told(given))), folder, overwrite, as_json)

    shown += [_parameter(*each) for each in _common(shown, made)]
    # typer lists options in this order, and required ones belong on top.
    shown.sort(key=lambda p: p.default is not inspect.Parameter.empty)
    command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in shown}
    command.__doc__ = source.summary + _needs(made)
    return command


def _needs(made: Made) -> str:
    """What the results must have been run with, as the end of the first line of the help."""
    return f" Reads a run with --analyses {','.join(made.needs)}." if made.needs else ""


def _first(given: Mapping[str, Any], made: Made) -> str:
    """What a command does first: it reads results or vectors, or loads its models."""
    if (place := given.get("folder") or given.get("vectors")) is not None:
        return f"reading {place}"
    models = made.models or (("model",) if "model" in given else made.by_place)
    return f"loading {' and '.join(dict.fromkeys(str(given[name]) for name in models))}"


def _module(experiment: str) -> str:
    return f"interp.experiments.{experiment.partition(':')[0]}"


def _common(shown: Sequence[inspect.Parameter], made: Made) -> list[tuple[str, Any, Any]]:
    """The options that all commands have, and those of all that load a model."""
    names = {p.name for p in shown}
    loading: list[tuple[str, Any, Any]] = []
    if "model" in names or made.models:
        loading = [("device", Device, None), ("dtype", Dtype, "float32")]
    written: list[tuple[str, Any, Any]] = [
        ("quiet", Quiet, False),
        ("out_folder", OutFolder, None),
        ("overwrite", Overwrite, False),
        ("as_json", Json, False),
    ]
    return [*loading, *(each for each in written if each[0] not in names)]


def _told(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the tables depend on."""
    unread = ["quiet"]
    if given.get("vectors") is not None:
        unread += ["model", "matrix", "device", "dtype"]  # the file takes their place
    return {name: value for name, value in given.items() if name not in unread}


def _run(experiment: str, asked: Sequence[Parameter], inputs: dict[str, Any]) -> Any:
    """Call the experiment; `*words`, and all that stands before them, are passed by position."""
    function = getattr(import_module(_module(experiment)), experiment.partition(":")[2])
    many = [p.name for p in asked if p.many]
    if not many:
        return function(**inputs)
    rest = inputs.pop(many[0])
    before = [inputs.pop(p.name) for p in asked if p.name in inputs and not p.keyword_only]
    return function(*before, *rest, **inputs)


# ---- the source of an experiment ---------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One parameter of an experiment, as it is written.

    Attributes:
        kind: its annotation, as text.
        default: its value, or `inspect.Parameter.empty`.
        help: its entry in the docstring.
        many: whether it takes any number of values (`*words`).
    """

    name: str
    kind: str
    default: Any
    help: str
    keyword_only: bool = False
    many: bool = False


@dataclass(frozen=True)
class Source:
    """Signature and first sentence of an experiment."""

    summary: str
    parameters: tuple[Parameter, ...]


@cache
def _source_of(experiment: str) -> Source:
    module, _, name = experiment.partition(":")
    tree = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    doc = ast.get_docstring(node) or ""
    helps = _helps(doc)
    constants = _constants(tree)

    def parameter(arg: ast.arg, default: ast.expr | None, **kind: bool) -> Parameter:
        value = inspect.Parameter.empty if default is None else _literal(default, constants)
        annotation = ast.unparse(arg.annotation) if arg.annotation else "Any"
        told = helps.get(arg.arg, "")
        if "Sequence[" in annotation:
            told += " Separate several by commas."
        return Parameter(arg.arg, annotation, value, told, **kind)

    args = node.args
    blank: list[ast.expr | None] = [None] * (len(args.args) - len(args.defaults))
    found = [parameter(a, d) for a, d in zip(args.args, [*blank, *args.defaults], strict=True)]
    if args.vararg is not None:
        found.append(parameter(args.vararg, None, many=True))
    pairs = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    found += [parameter(a, d, keyword_only=True) for a, d in pairs]
    summary = doc.split("\n\n")[0].replace("\n", " ").replace("`", "")
    return Source(summary, tuple(found))


def _helps(doc: str) -> dict[str, str]:
    """Help of each parameter: its entry in the section "Args:", without the part for Python."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", doc + "\n", re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section[1], re.MULTILINE)
    texts = {name: " ".join(text.split()) for name, text in entries}
    return {name: _help(text) for name, text in texts.items()}


def _help(text: str) -> str:
    text = text.partition(PYTHON)[0].strip().replace("`", "")
    # rich, which prints the help, takes brackets for markup.
    return (text[:1].upper() + text[1:]).replace("[", r"\[")


def _constants(tree: ast.Module) -> dict[str, Any]:
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def _literal(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    return constants[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)


# ---- what is typed -----------------------------------------------------------------------------


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _shown(p: Parameter, made: Made) -> list[inspect.Parameter]:
    """The options that belong to one parameter."""
    none = inspect.Parameter.empty
    own: dict[str, list[tuple[str, Any, Any]]] = {
        "results": [("folder", made.folder, none)],
        "model": [("model", ModelOption, "demo")],
        "vectors": [
            ("model", ModelOption, "demo"),
            ("matrix", Matrix, "W_E"),
            ("vectors", Vectors, None),
            ("centred", Centred, False),
        ],
        "prompts": [("prompts", Prompts, none), ("text_column", TextColumn, TEXT)],
        "progress": [("quiet", Quiet, False)],
        "overwrite": [("overwrite", Overwrite, False)],
        "special": [("special", Special, False)],
        "prepend_bos": [("bos", Bos, None)],
    }
    if p.name in own:
        return [_parameter(*each) for each in own[p.name]]
    default = made.defaults.get(p.name, p.default)
    kind: Any = list[str] if p.many else _type(p)
    if p.name in made.by_place or p.many:
        default = None if p.many else default
        argument = typer.Argument(help=p.help)
        return [_parameter(p.name, Annotated[kind, argument], default)]
    flag = made.options.get(p.name, "--" + p.name.replace("_", "-"))
    # Without a flag of its own, typer makes --scale and --no-scale: only for what is on by default.
    flags = (flag,) if _type(p) is not bool or not default else ()
    option = Annotated[kind, typer.Option(*flags, help=p.help)]
    return [_parameter(p.name, option, _typed(default))]


def _type(p: Parameter) -> Any:
    """The type that typer parses."""
    simple: dict[str, Any] = {
        "bool": bool,
        "int": int,
        "float": float,
        "int | None": int | None,
        "float | None": float | None,
        "str | None": str | None,
        "str | Path | None": str | None,
        "tuple[Any, Any] | None": tuple[str, str] | None,
    }
    return simple.get(p.kind, str)


def _typed(default: Any) -> Any:
    """A default as a user would type it."""
    if isinstance(default, tuple | list):
        return ",".join(map(str, default))
    return default


def _inputs(
    asked: Sequence[Parameter], given: Mapping[str, Any], models: Sequence[str]
) -> dict[str, Any]:
    """The arguments of the experiment; one model that is named twice is loaded once."""
    loaded = {name: _model(name, given) for name in dict.fromkeys(given[each] for each in models)}
    return {p.name: loaded[given[p.name]] if p.name in models else _value(p, given) for p in asked}


def _value(p: Parameter, given: Mapping[str, Any]) -> Any:
    """The argument of the experiment for the typed options."""
    special: dict[str, Callable[[], Any]] = {
        "results": lambda: _results(given["folder"]),
        "model": lambda: _model(given["model"], given),
        "vectors": lambda: _vectors(given),
        "prompts": lambda: prompts_typed(given["prompts"], given["text_column"]),
        "progress": lambda: not given["quiet"],
        "prepend_bos": lambda: given["bos"],
    }
    if p.name in special:
        return special[p.name]()
    typed = given[p.name]
    if p.many:
        return typed or []
    if not isinstance(typed, str):
        return typed
    convert = CONVERTERS.get(p.kind)
    return convert(typed, p.name) if convert else typed


def _results(folder: Path) -> Any:
    from interp.runs.load import load

    return load(folder)


def _model(name: str, given: Mapping[str, Any]) -> Any:
    from interp.models.load import load_model

    return load_model(name, device=given["device"], dtype=given["dtype"])


def _vectors(given: Mapping[str, Any]) -> Any:
    """The words of a file, or of a matrix of a model."""
    if given["vectors"] is not None:
        from interp.experiments.word_files import read_word_vectors

        found = read_word_vectors(given["vectors"]).explore()
    else:
        from interp.experiments.words import WordVectors

        found = WordVectors.of(_model(given["model"], given), given["matrix"])
    return found.centred() if given["centred"] else found


def names_typed(text: str, what: str) -> list[str]:  # noqa: ARG001  all converters are alike
    """Names separated by commas; "none" for no name.

    >>> names_typed("position, norm", "partial"), names_typed("none", "partial")
    (['position', 'norm'], [])
    """
    return [] if text == NO else split(text)


T = TypeVar("T")


def numbers_typed(text: str, what: str) -> list[float]:
    """Numbers separated by commas; raises `BadInput` for anything else."""
    return _converted(text, what, float, "numbers", "0.5,1,2")


def whole_typed(text: str, what: str) -> list[int]:
    """Integers separated by commas; raises `BadInput` for anything else."""
    return _converted(text, what, int, "whole numbers", "3,4")


def _converted(
    text: str, what: str, kind: Callable[[str], T], expected: str, example: str
) -> list[T]:
    try:
        return [kind(part) for part in split(text)]
    except ValueError as error:
        raise BadInput(
            f"--{what.replace('_', '-')} {text!r}: expected {expected} separated by commas, such "
            f"as {example}"
        ) from error


def _layers_typed(text: str, what: str) -> Any:
    return text if text == "all" else whole_typed(text, what)


def _place_typed(text: str, what: str) -> Any:
    """`all`, `last`, positions, or a label (role=target) as a mapping."""
    label, equals, value = text.partition("=")
    if equals:
        return {label: value}
    return text if text in ("all", "last") else whole_typed(text, what)


def _targets_typed(text: str, what: str) -> Any:  # noqa: ARG001
    """A token, or two tokens separated by a comma; leading spaces belong to the tokens."""
    found = tuple(part for part in text.split(",") if part.strip())
    return found if len(found) == 2 else text


CONVERTERS: dict[str, Callable[[str, str], Any]] = {
    "Sequence[str]": names_typed,
    "Sequence[str] | None": names_typed,
    "str | Sequence[str] | None": names_typed,
    "str | Sequence[str]": names_typed,
    "Sequence[float] | None": numbers_typed,
    "Sequence[float]": numbers_typed,
    "Sequence[int]": whole_typed,
    "Layers": _layers_typed,
    "Layers | None": _layers_typed,
    "Positions": _place_typed,
    "Positions | None": _place_typed,
    "str | tuple[str, str]": _targets_typed,
}
