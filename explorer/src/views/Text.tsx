/** The chosen prompt: its tokens as chips, coloured by a measure at the chosen depth. */

import type { RefObject } from "preact";
import { memo } from "preact/compat";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Colours, inkOn, type Scale, scale } from "../colours.ts";
import { column, type Data, type Measure, measureOf, place, rawText, span, text, valueOf } from "../data.ts";
import type { Saved } from "../export.tsx";
import { exact, number, short } from "../format.ts";
import { NoControl, Panel } from "../parts/Controls.tsx";
import { Legend, TokenMarks } from "../parts/Legend.tsx";
import { Pages } from "../parts/Pages.tsx";
import { TokenValues } from "../parts/Tip.tsx";
import type { Selection } from "../selection.ts";
import { useStore } from "../store.ts";
import { extentAt } from "../summary.ts";
import { textFigure } from "./TextFigure.tsx";

const LONGEST = 48;

interface ChipProps {
  token: number;
  position: number;
  text: string;
  value: number;
  under: number | null;
  fill: string;
  underFill: string;
  ink: string;
  kind: string;
  chosen: number;
  active: boolean;
  line: string;
  measure: string;
  title: string;
  depth: number;
}

/** Words that the state of a chip adds to its name for screen readers. */
const said = (kind: string) =>
  [kind.includes("ix-special") && "special", kind.includes("ix-generated") && "generated"]
    .filter(Boolean)
    .join(", ");

const Chip = memo(function Chip(p: ChipProps) {
  const name = `${p.text}, position ${p.position}, ${p.title} ${number(p.value)}${said(p.kind) ? `, ${said(p.kind)}` : ""}`;
  return (
    <button
      type="button"
      role="option"
      aria-selected={p.chosen >= 0}
      aria-label={name}
      tabIndex={p.active ? 0 : -1}
      class={p.kind}
      dir="auto"
      style={{
        background: Number.isNaN(p.value) ? undefined : p.fill,
        color: Number.isNaN(p.value) ? undefined : p.ink,
        "--mark": p.line || undefined,
        "--under": p.under === null ? undefined : p.underFill,
      }}
      data-token={p.token}
      data-position={p.position}
      data-measure={p.measure}
      data-depth={p.depth}
      data-value={exact(p.value)}
    >
      {p.text}
    </button>
  );
});

/** The classes that tell kinds of tokens apart. */
export function kindOf(data: Data, token: number, first: number): string {
  const names = ["ix-chip"];
  if (data.special?.[token]) names.push("ix-special");
  if (data.generated?.[token]) names.push("ix-generated");
  if (token === first || !data.word || data.word[token] || data.special?.[token]) names.push("ix-word");
  return names.join(" ");
}

interface Row {
  measure: Measure;
  depth: number;
  colours: Scale;
}

export function useTextScale(): Row | null {
  const store = useStore();
  const data = store.data.value;
  const { measure: name, state } = store.selection.value;
  const measure = measureOf(data, name);
  const palette = store.colours.value;
  return useMemo(() => {
    if (!measure) return null;
    const depth = column(measure, state);
    return { measure, depth, colours: scale(...extentAt(data, measure, depth), palette) };
  }, [data, measure, state, palette]);
}

/** So many tokens are drawn at once; of a longer prompt those around the chosen one. */
export const PAGE = 400;

interface Shown {
  data: Data;
  row: Row | null;
  tokens: number[];
  control: boolean;
  palette: Colours;
}

/** What a chip shows of its measure; without a measure it is a plain token. */
function painted({ row, control }: Shown, token: number) {
  if (!row)
    return { value: NaN, under: null, fill: "transparent", underFill: "", measure: "", title: "", depth: 0 };
  const { measure, depth, colours } = row;
  const value = valueOf(measure, token, depth);
  const under = control && measure.control ? valueOf(measure, token, depth, true) : null;
  const underFill = under === null || Number.isNaN(under) ? "" : colours.colour(under);
  return {
    value,
    under,
    fill: colours.colour(value),
    underFill,
    measure: measure.name,
    title: measure.title,
    depth,
  };
}

function chip(shown: Shown, token: number, first: number) {
  const { data, tokens, palette } = shown;
  const position = token - first;
  const paint = painted(shown, token);
  const chosen = tokens.indexOf(position);
  const classes = [
    kindOf(data, token, first),
    Number.isNaN(paint.value) && "ix-undefined",
    chosen >= 0 && "ix-chosen",
    paint.under !== null && "ix-split",
  ];
  return (
    <Chip
      key={token}
      token={token}
      position={position}
      text={short(text(data, token), LONGEST)}
      {...paint}
      ink={inkOn(paint.fill, palette)}
      kind={classes.filter(Boolean).join(" ")}
      chosen={chosen}
      active={chosen >= 0 && chosen === tokens.length - 1}
      line={chosen >= 0 ? (palette.tokens[chosen % palette.tokens.length] ?? "") : ""}
    />
  );
}

function chips(shown: Shown, prompt: number, page: number) {
  const { data } = shown;
  const { first, length } = span(data, prompt);
  const from = first + page * PAGE;
  return Array.from({ length: Math.min(PAGE, first + length - from) }, (_, i) => from + i).flatMap(
    (token) => {
      const one = chip(shown, token, first);
      return rawText(data, token).includes("\n") ? [one, <span key={`b${token}`} class="ix-break" />] : [one];
    },
  );
}

/** Keeps the token that the keyboard moves in sight, without moving the page. */
function useInSight(position: number | undefined, prompt: number) {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const pane = box.current;
    const chip = pane?.querySelector<HTMLElement>(`[data-position="${position ?? 0}"]`);
    if (!pane || !chip) return;
    const top = chip.offsetTop;
    if (top < pane.scrollTop) pane.scrollTop = top - 8;
    else if (top + chip.offsetHeight > pane.scrollTop + pane.clientHeight)
      pane.scrollTop = top + chip.offsetHeight - pane.clientHeight + 8;
    if (pane.contains(document.activeElement) && document.activeElement !== chip)
      chip.focus({ preventScroll: true });
  }, [position, prompt]);
  return box;
}

function useHover() {
  const store = useStore();
  const at = (event: Event): [number, HTMLElement] | null => {
    const chip = event.target instanceof Element ? event.target.closest<HTMLElement>("[data-token]") : null;
    return chip ? [Number(chip.dataset["token"]), chip] : null;
  };
  const show = (event: Event) => {
    const found = at(event);
    if (!found) {
      store.tip.value = null;
      return;
    }
    const box = found[1].getBoundingClientRect();
    store.tip.value = {
      x: box.left + box.width / 2,
      y: box.bottom - 8,
      content: <TokenValues token={found[0]} />,
    };
  };
  const hide = () => {
    store.tip.value = null;
  };
  const click = (event: MouseEvent) => {
    const found = at(event);
    if (found)
      store.choose(Number(found[1].dataset["position"]), event.shiftKey || event.ctrlKey || event.metaKey);
  };
  return { onPointerOver: show, onPointerLeave: hide, onClick: click };
}

function savedOf(
  data: Data,
  row: Row | null,
  { prompt, tokens, control, state }: Selection,
  where: string,
): Saved {
  const id = data.ids[prompt] ?? 0;
  return {
    name: [data.title, "text", `prompt ${id}`, row?.measure.name ?? ""],
    title: `Prompt ${id}: ${where}`,
    provenance: data.provenance,
    ...textFigure(data, prompt, tokens, row?.measure ?? null, state, control),
  };
}

function Scale({ row, where, control }: { row: Row; where: string; control: boolean }) {
  return (
    <>
      <Legend
        scale={row.colours}
        title={where}
        unit={row.measure.unit}
        control={control && row.measure.control !== null}
        note="Colours end at the 2nd and the 98th percentile of ordinary tokens."
      />
      {control && !row.measure.control && <NoControl what={`values of ${row.measure.title}`} />}
    </>
  );
}

const whereOf = ({ measure, depth }: Row) =>
  [measure.title, place(measure, depth)].filter(Boolean).join(", ");

/** The value of the token that was chosen last, and all its others when they are asked for. */
function Chosen({ token, row }: { token: number; row: Row | null }) {
  const data = useStore().data.value;
  const [open, setOpen] = useState(false);
  if (!row || token >= data.index.length) return null;
  const { measure, depth } = row;
  return (
    <details
      class="ix-numbers ix-chosen-values"
      onToggle={(e) => {
        setOpen(e.currentTarget.open);
      }}
    >
      <summary>
        <bdi class="ix-mono">{short(text(data, token), 24)}</bdi>: {number(valueOf(measure, token, depth))}{" "}
        {measure.unit}
        <span class="ix-unit">all {data.measures.length} values of this token</span>
      </summary>
      {open && <TokenValues token={token} all />}
    </details>
  );
}

/** Says that a prompt that is shown from its middle has a beginning. */
function Above({ pane }: { pane: RefObject<HTMLDivElement | null> }) {
  const [above, setAbove] = useState(false);
  useEffect(() => {
    const box = pane.current;
    if (!box) return;
    const look = () => {
      setAbove(box.scrollTop > 12);
    };
    look();
    box.addEventListener("scroll", look, { passive: true });
    return () => {
      box.removeEventListener("scroll", look);
    };
  }, [pane]);
  if (!above) return null;
  return (
    <button
      type="button"
      class="ix-small ix-above"
      onClick={() => {
        pane.current?.scrollTo({ top: 0, behavior: "instant" });
      }}
    >
      ↑ to the beginning of the prompt
    </button>
  );
}

export function TextView() {
  const store = useStore();
  const data = store.data.value;
  const palette = store.colours.value;
  const selection = store.selection.value;
  const { prompt, tokens, control } = selection;
  const row = useTextScale();
  const last = tokens[tokens.length - 1] ?? 0;
  const page = Math.floor(last / PAGE);
  const { length } = span(data, prompt);
  const box = useInSight(last, prompt);
  const hover = useHover();
  const drawn = useMemo(
    () => chips({ data, row, tokens, control, palette }, prompt, page),
    [data, prompt, page, tokens, row, control, palette],
  );
  const where = row ? whereOf(row) : "Tokens";
  return (
    <Panel
      view="text"
      title={`Prompt ${data.ids[prompt] ?? "–"}`}
      saved={savedOf(data, row, selection, where)}
      controls={row && <Scale row={row} where={where} control={control} />}
    >
      <Pages
        what="tokens"
        page={page}
        size={PAGE}
        length={length}
        onPage={(to) => {
          store.choose(Math.min(length - 1, to * PAGE), false);
        }}
      />
      <Above pane={box} />
      <div
        ref={box}
        class="ix-chips"
        role="listbox"
        aria-multiselectable="true"
        aria-label="Tokens: arrow keys move, Shift adds"
        aria-orientation="horizontal"
        {...hover}
      >
        {drawn}
        {drawn.length === 0 && <p class="ix-note">This prompt has no tokens.</p>}
      </div>
      <Chosen token={span(data, prompt).first + last} row={row} />
      <TokenMarks data={data} />
    </Panel>
  );
}
