"""Shared parts of the commands: the app, its options, and the printing of tables and paths."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from interp.errors import BadInput, InterpError, Interrupted, UnknownName, interruptible

if TYPE_CHECKING:
    from interp.render.finding import Finding
    from interp.runs.results import Results


INTERRUPTED, CLOSED = 130, 141  # as shells count signals: 128 + SIGINT, 128 + SIGPIPE
TEXT = "text"  # the column that is read unless --text-column names another
TEXTS = 3  # of a generation, printed
NARROW = 110  # columns of a terminal below which tables leave some of theirs out

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug report needs the plain traceback
    help="Measure the residual stream of TransformerLens models.",
    epilog="Exit codes: 0 done; 1 failed; 2 wrong usage or an unknown name; 3 an analysis has a "
    "fault; 4 done, but some documents or members failed; 130 interrupted by Ctrl-C; 141 the "
    "reader of a pipe has closed it.",
)
out = Console()
err = Console(stderr=True)

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A model: demo, smollm2 (see interp get), a hub name, a folder or a .gguf file.",
    ),
]
Dtype = Annotated[str, typer.Option(help="Of the weights: float32, bfloat16, float16 or float64.")]
Device = Annotated[
    str | None, typer.Option(help="Device: cpu, cuda, …; by default TransformerLens chooses.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of text.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]
OutFolder = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Folder to write tables (Parquet, CSV) and a page (report.html) to."
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="Folder that interp run wrote.")]
SeriesFolder = Annotated[Path, typer.Argument(help="Folder that interp series wrote.")]
Resamples = Annotated[int, typer.Option(help="Number of shuffles and bootstrap draws.")]
Special = Annotated[
    bool,
    typer.Option("--special", help="Keep special tokens, such as BOS, which are else left out."),
]
Bos = Annotated[
    bool | None,
    typer.Option(
        "--bos/--no-bos",
        help="Begin every prompt with BOS, or never; by default as the model was trained.",
    ),
]
TextColumn = Annotated[
    str, typer.Option(help="Column of the file with the text, or with chat messages.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


# Options by the name that they had, with the name that they have, per command.
RENAMED = {
    "compare": {"--between": "--by", "-a": "--a", "-b": "--b"},
    "steer": {"--targets": "--token"},
    "steps": {"--values": "--value"},
    "nearest": {"--of": "--matrix", "--by": "--similarity"},
    "near": {"--by": "--similarity"},
    "split": {"--of": "--sum"},
}


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"interp-stream {version('interp-stream')}")
        raise typer.Exit


@app.callback()
def _common(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Measure the residual stream of TransformerLens models."""


def split(names: str) -> list[str]:
    """Names separated by commas.

    >>> split("rotation, attention,")
    ['rotation', 'attention']
    """
    return [n.strip() for n in names.split(",") if n.strip()]


def renames(labels: str) -> dict[str, str]:
    """Label columns separated by commas, with the columns that they are read from.

    >>> renames("genre, file=path")
    {'genre': 'genre', 'file': 'path'}

    Raises `BadInput` for a name that is empty or is given twice.
    """
    out: dict[str, str] = {}
    for name in split(labels):
        new, _, old = (part.strip() for part in name.partition("="))
        if not new or ("=" in name and not old) or new in out:
            what = "is given twice" if new in out else "is not NEW=OLD"
            raise BadInput(f"--labels {name!r} {what}; write names as in --labels genre,file=path")
        out[new] = old or new
    return out


def prompts_typed(prompts: str | None, text_column: str) -> Any:
    """Prompts as they are named, or read already where the text is in a column of another name.

    Raises `BadInput` for a column of prompts that have none.
    """
    if text_column == TEXT:
        return prompts
    from interp.prompts.sources import BUILT_IN, read

    if prompts is None or prompts in BUILT_IN or ".txt" in Path(prompts).suffixes:
        what = "there is none" if prompts is None else f"{prompts!r} has no columns"
        raise BadInput(f"--text-column {text_column!r} names a column of a file, and {what}")
    return read(prompts, text_column=text_column, language="english")


def finish(results: Results, written: list[Path], as_json: bool) -> None:
    """Print sizes and means of the tables and the written paths, as text or JSON."""
    if as_json:
        print_json(json.dumps({"written": [str(p) for p in written], "tables": sizes(results)}))
        return
    from interp.runs.report.means import group_means

    rows = [
        (name, f"{len(result.frame):,}", ", ".join(group_means(result)))
        for name, result in results.items()
    ]
    print_table(["table", "rows", "means, without special tokens"], rows)
    told = [
        *written_texts(results),
        *(f"note: {in_options(note)}" for note in prompt_notes(results)),
    ]
    for line in told:
        out.print(line, highlight=False, markup=False, soft_wrap=not out.is_terminal)
    wrote(written)


def prompt_notes(results: Results) -> list[str]:
    """The notes on the prompts of a run."""
    return [str(note) for note in results.provenance.get("prompts", {}).get("notes", ())]


def written_texts(results: Results) -> list[str]:
    """The first texts that a generation wrote, a line each; empty for other results."""
    from interp.runs.written import GENERATION

    texts = results.provenance.get(GENERATION, {}).get("texts", ())
    lines = [f"text {i}: {t['prompt']!r} → {t['text']!r}" for i, t in enumerate(texts[:TEXTS])]
    more = len(texts) - len(lines)
    return lines + ([f"and {more} more texts (report.html)"] if more else [])


def refuse_taken(folder: Path | None, overwrite: bool) -> None:
    """Refuse a folder that is taken, before anything is computed."""
    from interp._files import refuse_existing

    if folder is not None:
        refuse_existing(folder, overwrite=overwrite)


def deliver(found: Finding, folder: Path | None, overwrite: bool, as_json: bool) -> None:
    """Print a finding as text or JSON, and write it if there is a folder."""
    # Saved before it is printed: a closed pipe (`| head`) must not cost the tables.
    if folder is None:
        _print_found(found, [], None, as_json)
        return
    written = found.save(folder, overwrite=overwrite)
    with interruptible(lambda: f"what was found is kept in {str(folder)!r}"):
        _print_found(found, written, folder, as_json)


def _print_found(found: Finding, written: list[Path], folder: Path | None, as_json: bool) -> None:
    if as_json:
        tables = {
            name: json.loads(table.to_json(orient="records", double_precision=12))
            for name, table in found.all_tables().items()
        }
        document = found.document() | {"tables": tables, "written": [str(p) for p in written]}
        print_json(json.dumps(document, default=str))
        return
    # A pipe or a file has no width, unless the user names one.
    width = out.width if out.is_terminal or os.environ.get("COLUMNS") else None
    # Notes alone: a token of a table may look like an argument of Python.
    shown = found.with_notes(in_options(note) for note in found.notes)
    out.print(shown.text(width), highlight=False, markup=False, soft_wrap=True)
    if folder is not None:
        wrote([folder / "report.html"])
        out.print(f"and {len(written) - 1} more files in {folder}", highlight=False, markup=False)


@contextmanager
def tables_kept(folder: Path) -> Iterator[None]:
    """Tells, after a Ctrl-C in the block, that the tables are written already."""
    told = f"the tables are kept in {str(folder)!r}; interp report {folder} writes their report"
    with interruptible(lambda: told):
        yield


def about(experiment: str, **asked: Any) -> dict[str, Any]:
    """Origin of a table: the experiment, its options, and the versions that computed it."""
    from interp.models.tested_versions import untested
    from interp.runs.provenance import versions

    return {
        "experiment": experiment,
        "asked": asked,
        "versions": versions(),
        "untested_versions": untested(),
    }


def sizes(results: Results) -> dict[str, int]:
    """Rows per table."""
    return {name: len(result.frame) for name, result in results.items()}


def wrote(paths: list[Path]) -> None:
    """Print the written paths."""
    for path in paths:
        out.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def print_json(text: str) -> None:
    """Print JSON for a script, indented."""
    # Not by rich, whose colours take seconds for a large table.
    typer.echo(json.dumps(json.loads(text), indent=2, ensure_ascii=False))


def print_table(columns: list[str], rows: Any, spare: Sequence[str] = ()) -> None:
    """Print a table of text cells.

    `spare`: columns to leave out of a narrow terminal, with a line that says so.
    """
    left_out = [name for name in columns if name in spare and out.width < NARROW]
    shown = [i for i, name in enumerate(columns) if name not in left_out]
    columns, rows = [columns[i] for i in shown], [[row[i] for i in shown] for row in rows]
    table = Table(show_lines=False, header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0)  # a name that is cut cannot be typed
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))  # no markup in the cells
    out.print(table)
    if left_out:
        told = f"not shown in {out.width} columns: {', '.join(left_out)} (--json has all)"
        out.print(told, highlight=False, markup=False)


def main() -> None:
    """Entry point: errors of this library and of the disk are one line.

    The exit code is 2 for wrong usage: an unknown name or option, or input that cannot be used; 130
    after a Ctrl-C, with a line on what is kept; 141 in a pipe whose reader has gone (`| head`),
    without a word; 1 for all else that failed.
    """
    try:
        refuse_renamed(sys.argv[1:])
        refuse_contradictions(sys.argv[1:])
        app()
    except SystemExit as ended:
        _end(ended)
    except InterpError as error:
        _fail(str(error), exit_code(error))
    except OSError as error:  # a full disk, a folder that may not be written
        what = f"{error.strerror or type(error).__name__}: {error.filename or ''}".rstrip(": ")
        _fail(what, 1)


def _end(ended: SystemExit) -> NoReturn:
    """Ends as typer did, except after a Ctrl-C, which says what is kept, or in a closed pipe."""
    why = list(_causes(ended))
    stopped = next((e for e in why if isinstance(e, KeyboardInterrupt)), None)
    if stopped is not None:
        kept = str(stopped) if isinstance(stopped, Interrupted) else "interrupted, nothing was kept"
        _fail(kept, INTERRUPTED, style="yellow", before="")
    try:
        sys.stdout.flush()
        closed = any(isinstance(e, BrokenPipeError) for e in why)
    except BrokenPipeError:
        closed = True
    if closed:
        # Python would write the rest at its end, and complain of the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CLOSED)
    raise ended


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The errors during which an error was raised, itself first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def exit_code(error: InterpError) -> int:
    """2 for a name or an input that cannot be used, 1 for all else."""
    return 2 if isinstance(error, UnknownName | BadInput) else 1


def refuse_renamed(typed: Sequence[str]) -> None:
    """Refuse an option by the name that it had before; raises `UnknownName` with the new one."""
    words = [word for word in typed if not word.startswith("-")]
    for command, options in RENAMED.items():
        for option in typed if command in words[:2] else ():
            old = option.partition("=")[0]
            if old in options:
                raise UnknownName(f"interp {command}: {old} is now {options[old]}")


def refuse_contradictions(typed: Sequence[str]) -> None:
    """Refuse an option together with its opposite, of which the parser would take the last one."""
    for p in _options_of(typed):
        told = [next((o for o in pair if o in typed), None) for pair in (p.opts, p.secondary_opts)]
        if all(told):
            raise BadInput(f"{' and '.join(map(str, told))} exclude each other: pass one of them")


def _fail(message: str, code: int, *, style: str = "red", before: str = "error: ") -> NoReturn:
    told = before + in_options(message, options_of(sys.argv[1:]))
    err.print(told, style=style, highlight=False, markup=False, soft_wrap=True)
    sys.exit(code)


# Parts of messages that help in Python only.
PYTHON_PARTS = (
    r"\b\w+=True, (?=--)",
    r"(?<=\w), or \w+=True,",
    r", or pass special=True",
    r"\blabels=\{[^}]*\}, or (?=--)",
    r" The likeliest token at every step is do_sample=False",
    r"stop=\[\] writes on, or (?=take)",
    r", or spans= with the parts that correspond",
    r"; values of a label are a list, one for each prompt",
    r"; depth='relative' compares equal shares of the depth",
)
# Arguments of Python, and the options that they are at a shell.
_ALIKE = (
    "against|layers|positions|read|by|keep|target|long|overlap|generate|revision|gpus|ray|workers"
)
FLAGS = {
    # Where both are told, the option stays: at= (--at), keep='tokens' (--keep tokens).
    r"\b\w+=('[^']*')? \((--[\w-]+(?: [\w-]+)?)\)": r"\2",
    r"\bdo_sample=True": "--sample",
    r"\bmax_new_tokens(=| is)": "--generate is",
    r"\bmax_new_tokens (?=may)": "--generate ",
    r"\bwith resume( \(--resume\))?(?!\w)": "with --resume",
    r"\bwithout_dims=(?=\()": "--dims ",
    r"\blabels=\{'([^']*)': '\1'\}( renames)?(?=:| )": r"--labels \1:",
    r"\blabels=\{'([^']*)': '([^']*)'\}": r"--labels \1=\2",
    r"\b(samples|temperature) (?=is )": r"--\1 ",
    r"\btemperature(?=(, \w+)*: only with )": "--temperature",
    r"\btop_([kp])(?=(, \w+)*: only with | is )": r"--top-\1",
    r"to use it as a prompt, put it in a list: \[[^\]]*\]": (
        "prompts of your own go into a file, such as prompts.txt with one in each line"
    ),
    r"model_options has device": "--device names one",
    r"\btargets=(?=\S)": "--token ",
    r"\btargets=": "--token",
    r"pass some as the second argument": "name some by --prompts",
    r"\btext_column=": "--text-column",
    rf"(?<!--labels )(?<![\w.{{-])({_ALIKE})=(?=['\"\w\[-])": r"--\1 ",
    rf"(?<!--labels )(?<![\w.{{-])({_ALIKE})=": r"--\1",
}


def options_of(typed: Sequence[str]) -> dict[str, str]:
    """The options of a command that is typed, by the names that they have in Python."""
    return {str(p.name): max(p.opts, key=len) for p in _options_of(typed)}


def _options_of(typed: Sequence[str]) -> list[Any]:
    from typer.main import get_command

    command: Any = get_command(app)
    for word in typed:
        command = getattr(command, "commands", {}).get(word, command)
    if hasattr(command, "commands"):
        return []
    return [p for p in command.params if p.param_type_name == "option"]


def in_options(message: str, options: Mapping[str, str] = MappingProxyType({})) -> str:
    """A message without the parts that help in Python only.

    `options`: those of the command, as `options_of` returns them.

    >>> in_options("it exists; replace it (overwrite=True, --overwrite)")
    'it exists; replace it (--overwrite)'
    >>> in_options("2 were left out (--special, or special=True, keeps them)")
    '2 were left out (--special keeps them)'
    >>> in_options("max_new_tokens is 0; pass targets= and against=, each a token")
    '--generate is 0; pass --token and --against, each a token'
    >>> in_options("read='foo'; layers= names 99")
    "--read 'foo'; --layers names 99"
    >>> in_options("by=['genre', 'file'] is for a summary; a=0 or k=", {"k": "-k", "a": "--a"})
    '--by genre,file is for a summary; --a 0 or -k'
    """
    for part in PYTHON_PARTS:
        message = re.sub(part, "", message)
    for pattern, flag in FLAGS.items():
        message = re.sub(pattern, flag, message)
    if options:
        names = "|".join(map(re.escape, options))
        # Not inside --labels NEW=OLD, which is no argument.
        given = rf"(?<!--labels )(?<![\w.{{,-])({names})=(True\b|(?=['\"\[(\w.-]))?"
        message = re.sub(given, lambda m: _as_option(options[m[1]], m[2]), message)
    # Several values have commas between them, and no brackets.
    return re.sub(r"(--[\w-]+) ([\[(][\d',\s][^\])]*)[\])]", _listed, message)


def _as_option(flag: str, value: str | None) -> str:
    """An option in place of an argument: alone, or with the value that stands behind it."""
    return f"{flag} " if value == "" else flag


def _listed(found: re.Match[str]) -> str:
    return f"{found[1]} {re.sub(r', *', ',', found[2][1:]).rstrip(',')}".replace("'", "")
