"""What is done to a model: `interp steer`, `interp positions split | shift`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.app import (
    Bos,
    Control,
    Json,
    ModelOption,
    OutFolder,
    Overwrite,
    Quiet,
    Seed,
    about,
    app,
    deliver,
    refuse_taken,
    split,
    untrained,
)
from interp.errors import BadInput, unknown

if TYPE_CHECKING:
    import pandas as pd

    from interp.experiments.dose_response import DoseResponse
    from interp.render.finding import Sheet


PANEL = "On a model"
positions = typer.Typer(no_args_is_help=True, help="Token and position at the input of a model.")
app.add_typer(positions, name="positions", rich_help_panel=PANEL)

Text = Annotated[str, typer.Argument(help="One prompt.")]


@app.command(rich_help_panel=PANEL)
def steer(
    prompts: Annotated[str, typer.Option("--prompts", "-p", help="A file, or a built-in set.")],
    targets: Annotated[
        str, typer.Option(help='A token, or two by a comma: " her, his" keeps leading spaces.')
    ],
    layers: Annotated[str, typer.Option(help="States that are steered, by commas, or all.")],
    toward: Annotated[
        str | None, typer.Option(help="Steer along W_U of this token, less that of --away.")
    ] = None,
    away: Annotated[str | None, typer.Option(help="See --toward.")] = None,
    contrast: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two files of prompts: steer along their mean difference."),
    ] = None,
    kind: Annotated[str, typer.Option(help="add, project or rotate.")] = "add",
    doses: Annotated[str, typer.Option(help="Numbers, by commas.")] = "",
    where: Annotated[
        str, typer.Option("--positions", help="all, last, or LABEL=VALUE such as role=target.")
    ] = "all",
    read: Annotated[str, typer.Option(help="Tokens whose prediction is read; likewise.")] = "last",
    target_word: Annotated[
        str | None, typer.Option("--target", help="A word whose tokens get the role target.")
    ] = None,
    controls: Annotated[int, typer.Option(help="Random directions of the same size.")] = 19,
    bos: Bos = None,
    model: ModelOption = "demo",
    seed: Seed = 0,
    quiet: Quiet = False,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Steer the stream and measure a prediction by dose, beside random directions."""
    from interp.experiments.dose_response import dose_response
    from interp.models.load import load_model

    refuse_taken(out_folder, overwrite)
    bridge = load_model(model)
    states = "all" if layers == "all" else _whole(layers, "layers")
    direction = _direction(bridge, toward, away, contrast, states, bos)
    found = dose_response(
        bridge,
        _labelled(bridge, prompts, target_word, bos),
        direction,
        kind=kind,  # type: ignore[arg-type]  # checked there
        doses=_numbers(doses, "doses") or None,
        layers=states,  # type: ignore[arg-type]
        positions=_place(where),
        targets=_targets(targets),
        read=_place(read),
        controls=controls,
        seed=seed,
        progress=not quiet,
    )
    asked: dict[str, Any] = {"model": model, "prompts": prompts, "targets": targets}
    asked |= {
        "layers": layers,
        "toward": toward,
        "away": away,
        "contrast": contrast,
        "kind": kind,
        "doses": doses,
    }
    asked |= {"positions": where, "read": read, "controls": controls, "seed": seed, "bos": bos}
    deliver(_steered(found, asked), out_folder, overwrite, as_json)


def _steered(found: DoseResponse, asked: dict[str, Any]) -> Sheet:
    from interp.render.finding import Sheet

    return Sheet(
        "steer",
        repr(found),
        {"steer": found.frame, "effects": found.effects},
        {"Effect by dose": found.plot},
        lead="Does the prediction move with the dose, and more than along random directions?",
        notes=found.notes,
        about=about("steer", **asked),
    )


def _labelled(bridge: Any, prompts: str | list[str], word: str | None, bos: bool | None) -> Any:
    from interp.models.for_model import prompts_of
    from interp.models.probe import inspect
    from interp.prompts.labels import target_word

    ready = prompts_of(bridge, inspect(bridge), prompts, prepend_bos=bos)
    return ready if word is None else ready.label(target_word(word))


def _direction(
    bridge: Any,
    toward: str | None,
    away: str | None,
    contrast: tuple[str, str] | None,
    states: Any,
    bos: bool | None,
) -> Any:
    """The direction that was asked for: of two tokens, or of two sets of prompts."""
    from interp.experiments.steering import mean_difference, unembedding_difference

    if (contrast is None) == (toward is None):
        raise BadInput("say along what to steer: --toward TOKEN --away TOKEN, or --contrast A B")
    if contrast is not None:
        if states == "all" or len(states) != 1:
            raise BadInput("--contrast takes the difference at one state: name one in --layers")
        a, b = (_labelled(bridge, prompts, None, bos) for prompts in contrast)
        return mean_difference(bridge, a, b, states[0])
    if away is None or toward is None:
        raise BadInput("--toward needs --away: the direction is the difference of two tokens")
    return unembedding_difference(bridge, toward, away)


def _targets(text: str) -> Any:
    found = tuple(part for part in text.split(",") if part.strip())
    return found if len(found) == 2 else text


def _place(text: str) -> Any:
    """`all`, `last`, columns, or a label as a mapping."""
    label, equals, value = text.partition("=")
    if equals:
        return {label: value}
    return text if text in ("all", "last") else _whole(text, "positions")


def _numbers(text: str, what: str) -> list[float]:
    try:
        return [float(part) for part in split(text)]
    except ValueError as error:
        raise BadInput(f"{what} {text!r} are no numbers by commas, such as 0.5,1,2") from error


def _whole(text: str, what: str) -> list[int]:
    try:
        return [int(part) for part in split(text)]
    except ValueError as error:
        raise BadInput(f"{what} {text!r} are no whole numbers by commas, such as 3,4") from error


@positions.command(name="split")
def split_input(
    prompt: Text,
    of: Annotated[
        str, typer.Option("--of", help="cosines, scores of the first block, or distance.")
    ] = "cosines",
    block: Annotated[int, typer.Option(help="Whose scores, for distance.")] = 0,
    bos: Bos = None,
    model: ModelOption = "demo",
    control: Control = None,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Split cosines or scores of the first block into token and position, or content and distance.

    Token and position add up where position vectors are learned; distance is for any model.
    """
    from interp.experiments.score_split import split_cosines, split_distance, split_scores
    from interp.models.load import load_model
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    kinds: dict[str, Any] = {"cosines": split_cosines, "scores": split_scores}
    kinds["distance"] = partial(split_distance, block=block)
    if of not in kinds:
        raise unknown("thing to split", of, kinds)
    if block and of != "distance":
        raise BadInput(f"--block {block} is for --of distance: {of} are those of the first block")
    bridge = load_model(model)
    ready = _labelled(bridge, [prompt], None, bos)  # the copy reads the same tokens
    found, copy = kinds[of](bridge, ready), untrained(control, model)
    table = found.frame
    if copy is not None:
        table["untrained_share"] = kinds[of](copy, ready).frame["share"]
    what = "cosines" if of == "cosines" else "scores"
    said = (
        "distance is fitted and content is the rest; shuffled_share is what they would have of "
        "keys shuffled within their rows"
        if found.shuffled
        else f"the parts add up to the model's own {what} within {found.error:.2g} (relative)"
    )
    sheet = Sheet(
        "split",
        f"{table.to_string(index=False, float_format='{:.4g}'.format)}\n{said}",
        {"split": table},
        {"Shares": partial(_shares, table, what)},
        lead=f"How much of the {what} is token or content, and how much position?",
        notes=(said,),
        about=about(
            "positions split",
            model=model,
            prompt=prompt,
            bos=bos,
            of=of,
            block=block,
            control=control,
        ),
    )
    deliver(sheet, out_folder, overwrite, as_json)


def _shares(table: pd.DataFrame, what: str) -> Any:
    """Every part of every head, beside the control that there is."""
    from interp.render.bars import bars_figure

    named = table["part"].str.replace("_", "–")
    if "head" in table:
        named = "head " + table["head"].astype(str) + " · " + named
    greys = {"shuffled_share": "keys shuffled within rows", "untrained_share": "an untrained copy"}
    grey = next((column for column in greys if column in table), None)
    return bars_figure(
        table.assign(name=named),
        "name",
        "share",
        title=f"Shares of the {what}",
        unit="share of what orders the keys",
        caption="cov(part, total) / var(total), both relative to the mean of their row; the "
        "shares of a total sum to 1." + (f" Grey: {greys[grey]}." if grey else ""),
        control=grey,
    )


@positions.command()
def shift(
    prompt: Text,
    shifts: Annotated[str, typer.Option(help="Offsets, by commas.")] = "1,8,32",
    bos: Bos = None,
    model: ModelOption = "demo",
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """The same text at later positions: how far states and patterns move."""
    from interp.experiments.shift import shift_test
    from interp.models.load import load_model
    from interp.render.bars import lines_figure
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    bridge = load_model(model)
    ready = _labelled(bridge, [prompt], None, bos)
    table = shift_test(bridge, ready, _whole(shifts, "shifts"))
    lines = {f"shift {n}": _line(rows, "angle") for n, rows in table.groupby("shift")}
    lines["different tokens"] = _line(table.drop_duplicates("layer"), "between_tokens")
    draw = partial(
        lines_figure,
        lines,
        title="The same text at later positions",
        x="state (0 enters the first block)",
        unit="degrees",
        caption="Mean angle between the states of the shifted text and its own. Grey: mean angle "
        "between different tokens of the text.",
        controls=["different tokens"],
    )
    sheet = Sheet(
        "shift",
        table.to_string(index=False, float_format="{:.4g}".format),
        {"shift": table},
        {"How far states move": draw},
        lead="Does the model see the same text differently at another position?",
        about=about("positions shift", model=model, prompt=prompt, bos=bos, shifts=shifts),
    )
    deliver(sheet, out_folder, overwrite, as_json)


def _line(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    return rows.rename(columns={"layer": "x", value: "mean"})[["x", "mean"]]
