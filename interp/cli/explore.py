"""`interp explore`: the explorer of saved results as a file, or of a model while it runs."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.app import (
    Bos,
    Device,
    Dtype,
    Json,
    Overwrite,
    Quiet,
    app,
    err,
    out,
    print_json,
    split,
    wrote,
)
from interp.errors import BadInput, InterpError

LIVE = "Live (a model)"
BY_DEFAULT = "rotation,path_length,logit_lens,attention,trajectory"


@app.command()
def explore(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|MODEL",
            help="Folder that interp run wrote; or a model, to type prompts in the browser.",
        ),
    ],
    path: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The HTML file, or a folder for explorer.html."),
    ] = None,
    show: Annotated[
        bool | None,
        typer.Option("--open/--no-open", help="Open it in a browser; by default in a terminal."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="The argument is a model.", rich_help_panel=LIVE)
    ] = False,
    prompt: Annotated[
        str | None, typer.Option(help="The first prompt.", rich_help_panel=LIVE)
    ] = None,
    analyses: Annotated[
        str,
        typer.Option("--analyses", "-a", help="Analyses to run, by commas.", rich_help_panel=LIVE),
    ] = BY_DEFAULT,
    port: Annotated[
        int, typer.Option(help="Port on this machine; by default a free one.", rich_help_panel=LIVE)
    ] = 0,
    bos: Bos = None,
    dtype: Dtype = "float32",
    device: Device = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Show every number of a run at its token and layer, on one page that opens offline.

    With a model in place of a folder the page is served on this machine only (127.0.0.1), and
    prompts that are typed there are run; Ctrl-C ends it.
    """
    folder = Path(what)
    if live or not _has_results(folder):
        _refuse_folder(folder)
        _refuse_output(path, as_json)
        loading: dict[str, Any] = {"dtype": dtype, "device": device}
        asked = {"analyses": split(analyses), "prompt": prompt, "prepend_bos": bos}
        _serve(what, port, show, quiet, loading, **asked)
        return
    given = {"--prompt": prompt is not None, "--port": port != 0, "--bos": bos is not None}
    given |= {"--analyses": analyses != BY_DEFAULT, "--device": device is not None}
    given |= {"--dtype": dtype != "float32"}
    if wrong := [name for name, asked in given.items() if asked]:
        raise BadInput(f"{', '.join(wrong)}: only with a model, and {what!r} holds results")
    written = _write(folder, path, overwrite)
    if as_json:
        print_json(json.dumps({"written": [str(written)]}))
    else:
        wrote([written])
    _open(written.resolve().as_uri(), show)


def _has_results(folder: Path) -> bool:
    from interp._files import LAYOUT, SERIES, kind_of
    from interp.runs.results import CORPUS

    return any(kind_of(folder / name) == "file" for name in (LAYOUT, CORPUS, SERIES))


def _refuse_folder(folder: Path) -> None:
    """Raise `BadInput` for a folder that holds neither results nor a model."""
    if not folder.is_dir():
        return
    if _has_results(folder):
        raise BadInput(
            f"{str(folder)!r} holds results, and --live runs a model: name the model, or leave "
            "--live out to explore the results"
        )
    if not ((folder / "config.json").is_file() or any(folder.glob("*.gguf"))):
        from interp.runs.saved import instead

        rest = instead(folder) or "; interp run --out writes a folder of results"
        raise BadInput(
            f"{str(folder)!r} holds neither results (no results.json or corpus.json in it) nor a "
            f"model (no config.json and no .gguf){rest}"
        )


def _refuse_output(path: Path | None, as_json: bool) -> None:
    given = [name for name, value in (("--out", path), ("--json", as_json)) if value]
    if given:
        raise BadInput(f"{', '.join(given)}: only with a folder of results")


def _write(folder: Path, path: Path | None, overwrite: bool) -> Path:
    """The page of saved results: next to them, where an earlier one is replaced, or in `path`."""
    from interp.runs.load import load
    from interp.runs.series.result import Series

    found = load(folder)
    if isinstance(found, Series):
        raise BadInput(
            f"{str(folder)!r} holds a series of models, and the explorer shows one: name the "
            f"folder of a member, in {str(folder / 'members')!r}; interp report shows all together"
        )
    overwrite = overwrite or path is None
    path = path or folder
    if path.suffix.lower() not in (".html", ".htm"):
        path = path / "explorer.html"
    return found.explore().save(path, overwrite=overwrite)


def _serve(
    model: str, port: int, show: bool | None, quiet: bool, loading: dict[str, Any], **asked: Any
) -> None:
    from interp._progress import stage
    from interp.models.load import load_model
    from interp.runs.explorer.live.server import Server, require_server
    from interp.runs.explorer.live.session import Session
    from interp.runs.saved import near

    require_server()  # before a model is loaded, which may take a minute
    with stage(f"loading {model}", enabled=not quiet):
        try:
            loaded = load_model(model, **loading)
        except InterpError as error:
            # Of a mistyped folder nobody can tell that no model was meant, until there is none.
            if folder := near(Path(model)):
                raise BadInput(f"{error}{folder} (a folder of results)") from error
            raise
        session = Session(loaded, **asked)
    for note in session.notes:
        err.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)
    with Server(session, port=port) as server:
        out.print(server.address, highlight=False, markup=False, soft_wrap=True)
        out.print("Only this machine can open it. Ctrl-C ends it.", highlight=False)
        _open(server.address, show)
        server.run()


def _open(address: str, show: bool | None) -> None:
    if out.is_terminal if show is None else show:
        webbrowser.open(address)
