/** The chosen prompt: its tokens as chips, coloured by a measure at the chosen depth. */

import { memo } from "preact/compat";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { type Colours, inkOn, scale, type Scale } from "../colours.ts";
import {
  column, type Data, type Measure, measureOf, place, rawText, span, text, valueOf,
} from "../data.ts";
import type { Saved } from "../export.tsx";
import { exact, number, short } from "../format.ts";
import { NoControl, Panel } from "../parts/Controls.tsx";
import { Legend, TokenMarks } from "../parts/Legend.tsx";
import { TokenValues } from "../parts/Tip.tsx";
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
  [kind.includes("ix-special") && "special", kind.includes("ix-generated") && "generated"].filter(Boolean).join(", ");

const Chip = memo(function Chip(p: ChipProps) {
  const name = `${p.text}, position ${p.position}, ${p.title} ${number(p.value)}${said(p.kind) ? `, ${said(p.kind)}` : ""}`;
  return (
    <button
      type="button" role="option" aria-selected={p.chosen >= 0} aria-label={name} tabIndex={p.active ? 0 : -1}
      class={p.kind} dir="auto"
      style={{
        "background": Number.isNaN(p.value) ? undefined : p.fill, "color": Number.isNaN(p.value) ? undefined : p.ink,
        "--mark": p.line || undefined, "--under": p.under === null ? undefined : p.underFill,
      } as Record<string, string>}
      data-token={p.token} data-position={p.position} data-measure={p.measure} data-depth={p.depth} data-value={exact(p.value)}
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

function chips(data: Data, prompt: number, tokens: number[], row: Row | null, control: boolean, palette: Colours) {
  const { first, length } = span(data, prompt);
  const last = tokens[tokens.length - 1];
  const order = new Map(tokens.map((position, i) => [position, i]));
  return Array.from({ length }, (_, position) => {
    const token = first + position;
    const value = row ? valueOf(row.measure, token, row.depth) : NaN;
    const under = control && row?.measure.control ? valueOf(row.measure, token, row.depth, true) : null;
    const chosen = order.get(position) ?? -1;
    const fill = row?.colours.colour(value) ?? "transparent";
    const classes = [kindOf(data, token, first)];
    if (Number.isNaN(value)) classes.push("ix-undefined");
    if (chosen >= 0) classes.push("ix-chosen");
    if (under !== null) classes.push("ix-split");
    const chip = (
      <Chip
        key={token} token={token} position={position} text={short(text(data, token), LONGEST)} value={value} under={under}
        fill={fill} underFill={under === null || Number.isNaN(under) ? "" : (row?.colours.colour(under) ?? "")}
        ink={inkOn(fill, palette)} kind={classes.join(" ")} chosen={chosen} active={position === last}
        line={chosen >= 0 ? (palette.tokens[chosen % palette.tokens.length] ?? "") : ""}
        measure={row?.measure.name ?? ""} title={row?.measure.title ?? ""} depth={row?.depth ?? 0}
      />
    );
    return rawText(data, token).includes("\n") ? [chip, <span key={`b${token}`} class="ix-break" />] : chip;
  });
}

/** Keeps the token that the keyboard moves in sight, without moving the page. */
function useInSight(position: number | undefined, prompt: number) {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const pane = box.current;
    const chip = pane?.querySelector<HTMLElement>(`[data-position="${position ?? 0}"]`);
    if (!pane || !chip) return;
    const top = chip.offsetTop - pane.offsetTop;
    if (top < pane.scrollTop) pane.scrollTop = top - 8;
    else if (top + chip.offsetHeight > pane.scrollTop + pane.clientHeight) pane.scrollTop = top + chip.offsetHeight - pane.clientHeight + 8;
    if (pane.contains(document.activeElement) && document.activeElement !== chip) chip.focus({ preventScroll: true });
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
      x: box.left + box.width / 2, y: box.bottom - 8,
      content: <TokenValues token={found[0]} state={store.selection.peek().state} />,
    };
  };
  const hide = () => { store.tip.value = null; };
  const click = (event: MouseEvent) => {
    const found = at(event);
    if (found) store.choose(Number(found[1].dataset["position"]), event.shiftKey || event.ctrlKey || event.metaKey);
  };
  return { onPointerOver: show, onPointerLeave: hide, onFocusIn: show, onFocusOut: hide, onClick: click };
}

export function TextView() {
  const store = useStore();
  const data = store.data.value;
  const palette = store.colours.value;
  const { prompt, tokens, control, state } = store.selection.value;
  const row = useTextScale();
  const box = useInSight(tokens[tokens.length - 1], prompt);
  const hover = useHover();
  const drawn = useMemo(() => chips(data, prompt, tokens, row, control, palette), [data, prompt, tokens, row, control, palette]);
  const where = row ? `${row.measure.title}${place(row.measure, row.depth) && `, ${place(row.measure, row.depth)}`}` : "Tokens";
  const saved: Saved = {
    name: [data.title, "text", `prompt ${data.ids[prompt] ?? 0}`, row?.measure.name ?? ""],
    title: `Prompt ${data.ids[prompt] ?? 0}: ${where}`,
    provenance: data.provenance,
    ...textFigure(data, prompt, tokens, row?.measure ?? null, state, control),
  };
  return (
    <Panel
      view="text" title={`Prompt ${data.ids[prompt] ?? "–"}`} saved={saved}
      controls={row && <Legend scale={row.colours} title={where} unit={row.measure.unit} note="Colours end at the 2nd and the 98th percentile of ordinary tokens." control={control && row.measure.control !== null} />}
    >
      {control && row && !row.measure.control && <NoControl what={`values of ${row.measure.title}`} />}
      <div ref={box} class="ix-chips" role="listbox" aria-multiselectable="true" aria-label="Tokens: arrow keys move, Shift adds" aria-orientation="horizontal" {...hover}>
        {drawn}
        {drawn.length === 0 && <p class="ix-note">This prompt has no tokens.</p>}
      </div>
      <TokenMarks data={data} />
    </Panel>
  );
}
