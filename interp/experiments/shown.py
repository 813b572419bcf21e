"""How the results of experiments are printed."""

from __future__ import annotations

import html

import pandas as pd

ROWS = 12


class Shown:
    """What the results of all experiments have in common: how they are printed."""

    frame: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        return self._sentence()

    def _sentence(self) -> str:
        raise NotImplementedError

    def _short(self) -> pd.DataFrame:
        """The columns to read first."""
        return self.frame

    def __repr__(self) -> str:
        frame = self._short()
        table = frame.head(ROWS).to_string(index=False, float_format="{:.4g}".format)
        more = f"\n… {len(frame) - ROWS} more rows" if len(frame) > ROWS else ""
        notes = "".join(f"\nnote: {note}" for note in self.notes)
        return f"{self._sentence()}\n{table}{more}{notes}"

    def _repr_html_(self) -> str:
        table = self._short().to_html(index=False, float_format="{:.4g}".format, border=0)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return f"<p>{html.escape(self._sentence())}</p>{table}<ul>{notes}</ul>"
