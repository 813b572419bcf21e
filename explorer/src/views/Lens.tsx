/** What the lens reads at each state and position: a table with a frozen header and first column. */

import { memo } from "preact/compat";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { type Colours, coloursOf, inkOn, MONO, type Scale, scale } from "../colours.ts";
import { column, type Data, type Lens, rawText, span, stateName, text } from "../data.ts";
import type { Saved } from "../export.tsx";
import { type Cell, exact, number, percent, short, visible } from "../format.ts";
import { useVirtual } from "../hooks.ts";
import { Missing, NoControl, Panel, Subtitle } from "../parts/Controls.tsx";
import { FigureLegend, Legend } from "../parts/Legend.tsx";
import { TopTokens } from "../parts/Tip.tsx";
import type { Id } from "../payload.ts";
import { find, readoutAt, sought } from "../readout.ts";
import type { Selection } from "../selection.ts";
import { useStore } from "../store.ts";

const CELL = 82;
const HEAD = 164;
/** A saved table is at most so many columns wide; the CSV has all. */
const SAVED_COLUMNS = 40;

interface Reading {
  text: string;
  share: number;
  /** The most probable token as it is in the vocabulary, and its probability. */
  top: string;
  prob: number;
}

/** What a cell shows: its most probable token, or the place of the token that is sought. */
export function reading(
  lens: Lens,
  wanted: Set<number>,
  token: number,
  state: number,
  control = false,
): Reading {
  const best = readoutAt(lens, token, state, control)[0];
  const top = { top: best?.raw ?? "", prob: best?.prob ?? NaN };
  if (!wanted.size) return { text: best?.text ?? "", share: top.prob, ...top };
  const found = find(lens, wanted, token, state, control);
  return found
    ? { text: `${found.rank}. ${percent(found.prob)}`, share: found.prob, ...top }
    : { text: "", share: NaN, ...top };
}

interface CellProps {
  token: number;
  position: number;
  state: number;
  text: string;
  share: number;
  top: string;
  prob: number;
  fill: string;
  ink: string;
  under: string;
  underFill: string;
  mark: string;
}

const LensCell = memo(function LensCell(p: CellProps) {
  return (
    <div
      role="gridcell"
      class={`ix-lens-cell${p.mark}`}
      style={{ background: p.fill, color: p.ink }}
      data-lens-token={p.token}
      data-lens-state={p.state}
      data-position={p.position}
      data-top={p.top}
      data-prob={exact(p.prob)}
      data-share={exact(p.share)}
    >
      <bdi>{short(p.text, 11)}</bdi>
      {p.under !== "" && (
        <small class="ix-lens-under" style={{ background: p.underFill }}>
          <bdi>{short(p.under, 12)}</bdi>
        </small>
      )}
    </div>
  );
});

interface Look {
  data: Data;
  lens: Lens;
  wanted: Set<number>;
  paint: Scale;
  colours: Colours;
  control: boolean;
}

function cellOf(look: Look, token: number, position: number, state: number, mark: string) {
  const { lens, wanted, paint, colours, control } = look;
  const own = reading(lens, wanted, token, state);
  const other = control && lens.control ? reading(lens, wanted, token, state, true) : null;
  const fill = Number.isNaN(own.share) ? "transparent" : paint.colour(own.share);
  return (
    <LensCell
      key={position}
      token={token}
      position={position}
      state={state}
      text={own.text}
      share={own.share}
      top={own.top}
      prob={own.prob}
      fill={fill}
      ink={inkOn(fill, colours)}
      under={other ? other.text || "–" : ""}
      underFill={other ? colours.paper : ""}
      mark={mark}
    />
  );
}

function useCellHover() {
  const store = useStore();
  const cell = (event: Event) =>
    event.target instanceof Element ? event.target.closest<HTMLElement>("[data-lens-token]") : null;
  return {
    onPointerOver: (event: PointerEvent) => {
      const found = cell(event);
      const lens = store.data.peek().lens;
      if (!found || !lens) {
        store.tip.value = null;
        return;
      }
      const [token, state] = [Number(found.dataset["lensToken"]), Number(found.dataset["lensState"])];
      const { left, bottom } = found.getBoundingClientRect();
      const { control } = store.selection.peek();
      store.tip.value = {
        x: left + CELL / 2,
        y: bottom - 6,
        content: (
          <>
            <p class="ix-tip-head">
              <bdi class="ix-mono">{short(text(store.data.peek(), token), 40)}</bdi>
              <span>
                position {found.dataset["position"]} · {stateName(lens.states[state] ?? 0)}
              </span>
            </p>
            <TopTokens token={token} state={state} />
            {control && lens.control && (
              <>
                <p class="ix-tip-labels">{store.data.peek().controlName}</p>
                <TopTokens token={token} state={state} control />
              </>
            )}
          </>
        ),
      };
    },
    onPointerLeave: () => {
      store.tip.value = null;
    },
    onClick: (event: MouseEvent) => {
      const found = cell(event);
      const lens = store.data.peek().lens;
      if (!found || !lens) return;
      const position = Number(found.dataset["position"]);
      const { tokens } = store.selection.peek();
      const add = event.shiftKey && !tokens.includes(position);
      store.select({
        tokens: add ? [...tokens, position] : [position],
        state: lens.states[Number(found.dataset["lensState"])] ?? 0,
      });
    },
  };
}

/** The states in the chosen range, the last on top, as the stream is usually drawn. */
export const rowsOf = (lens: Lens, [from, to]: [number, number]): number[] =>
  lens.states.flatMap((s, i) => (s >= from && s <= to ? [i] : [])).reverse();

const rowName = (lens: Lens, state: number) => {
  const s = lens.states[state] ?? 0;
  return s === 0 ? "input (state 0)" : stateName(s);
};

/** The first position of a saved table: the beginning, or so far on that the selection is in it. */
export const savedFrom = (length: number, last: number): number =>
  last < SAVED_COLUMNS ? 0 : Math.max(0, Math.min(length - SAVED_COLUMNS, last - SAVED_COLUMNS / 2));

function Table({ look }: { look: Look }) {
  const store = useStore();
  const { data, lens } = look;
  const { prompt, tokens, state, range } = store.selection.value;
  const scroller = useRef<HTMLDivElement>(null);
  const { first, length } = span(data, prompt);
  const { items, total, show } = useVirtual(scroller, {
    count: length,
    size: CELL,
    horizontal: true,
    frozen: HEAD,
  });
  const at = column(lens, state);
  const last = tokens[tokens.length - 1] ?? 0;
  useEffect(() => {
    show(last);
    const pane = scroller.current;
    const row = pane?.querySelector<HTMLElement>(`[data-row="${at}"]`);
    if (!pane || !row) return;
    const [above, below] = [row.offsetTop - 52, row.offsetTop + row.offsetHeight];
    if (above < pane.scrollTop) pane.scrollTop = above;
    else if (below > pane.scrollTop + pane.clientHeight) pane.scrollTop = below - pane.clientHeight + 4;
    // Follows the selection only.
  }, [last, prompt, at]);
  const chosen = new Set(tokens);
  const hover = useCellHover();
  const before = (items[0]?.start ?? HEAD) - HEAD;
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    store.moveState(step);
  };
  const mark = (position: number, row: number) =>
    (chosen.has(position) ? " ix-lens-column" : "") +
    (row === at ? " ix-lens-row" : "") +
    (row === at && position === last ? " ix-lens-here" : "");
  return (
    <div
      ref={scroller}
      class={`ix-lens${look.control && lens.control ? " ix-lens-two" : ""}`}
      role="grid"
      tabIndex={0}
      onKeyDown={onKeyDown}
      aria-label="Lens: states by positions; arrow keys move"
      aria-rowcount={lens.states.length + 1}
      aria-colcount={length + 1}
      {...hover}
    >
      <div class="ix-lens-head" role="row" style={{ width: `${total}px` }}>
        <div class="ix-lens-corner" role="columnheader">
          state
        </div>
        <div style={{ flex: `0 0 ${before}px` }} />
        {items.map(({ index }) => (
          <div
            key={index}
            role="columnheader"
            class={chosen.has(index) ? "ix-lens-top ix-lens-column" : "ix-lens-top"}
            onClick={(e) => {
              store.choose(index, e.shiftKey);
            }}
          >
            <small>{index}</small>
            <bdi>{short(text(data, first + index), 10)}</bdi>
          </div>
        ))}
      </div>
      {rowsOf(lens, range).map((row) => (
        <div key={row} role="row" class="ix-lens-line" data-row={row} style={{ width: `${total}px` }}>
          <div
            role="rowheader"
            class={row === at ? "ix-lens-label ix-lens-row" : "ix-lens-label"}
            onClick={() => {
              store.select({ state: lens.states[row] ?? 0 });
            }}
          >
            {rowName(lens, row)}
          </div>
          <div style={{ flex: `0 0 ${before}px` }} />
          {items.map(({ index }) => cellOf(look, first + index, index, row, mark(index, row)))}
        </div>
      ))}
    </div>
  );
}

/** The chosen cell in full, for readers without a pointer. */
function Chosen({ look }: { look: Look }) {
  const store = useStore();
  const { data, lens, wanted, control } = look;
  const { prompt, tokens, state } = store.selection.value;
  const position = tokens[tokens.length - 1] ?? 0;
  const token = span(data, prompt).first + position;
  const at = column(lens, state);
  const found = wanted.size ? find(lens, wanted, token, at) : null;
  return (
    <div class="ix-lens-chosen" aria-live="polite">
      <Subtitle>
        <bdi class="ix-mono">{short(text(data, token), 24)}</bdi>{" "}
        <span>
          position {position}, {stateName(lens.states[at] ?? 0)}
        </span>
      </Subtitle>
      <TopTokens token={token} state={at} />
      {wanted.size > 0 && (
        <p class="ix-note">
          {found
            ? `The token that you look for has rank ${found.rank} and probability ${number(found.prob)}.`
            : `The token that you look for is not among the ${keptOf(lens, data.ids[prompt])} most probable here.`}
        </p>
      )}
      {control && lens.control && (
        <>
          <Subtitle>
            <span>{data.controlName}</span>
          </Subtitle>
          <TopTokens token={token} state={at} control />
        </>
      )}
    </div>
  );
}

/** So many of the most probable tokens of a prompt are known. */
const keptOf = (lens: Lens, id: Id | undefined) => (id !== undefined && lens.best.has(id) ? 1 : lens.k);

function hintOf(data: Data, lens: Lens, id: Id | undefined): string {
  const k = keptOf(lens, id);
  const what =
    k > 1
      ? `the most probable next token of ${k} that were kept.`
      : `the most probable next token, the only one that was kept of this prompt. ${data.more["lens"] ?? ""}`;
  return `Each state of the stream read out to the vocabulary: ${what} The last state is on top; its readings are the model's own predictions.`;
}

function Search({ lens, wanted }: { lens: Lens; wanted: Set<number> }) {
  const store = useStore();
  const { sought: typed, prompt } = store.selection.value;
  const id = store.data.value.ids[prompt];
  const near = useMemo(() => {
    if (!typed) return [];
    const small = typed.trim().toLowerCase();
    return lens.texts.filter((raw) => raw.trim().toLowerCase().startsWith(small)).slice(0, 30);
  }, [lens, typed]);
  return (
    <>
      <label class="ix-choose">
        <span>Find a token</span>
        <input
          type="search"
          list={store.id("vocabulary")}
          value={typed}
          placeholder="her"
          data-sought
          onInput={(e) => {
            store.select({ sought: e.currentTarget.value }, true);
          }}
        />
      </label>
      <datalist id={store.id("vocabulary")}>
        {near.map((raw) => (
          <option key={raw} value={visible(raw)} />
        ))}
      </datalist>
      {typed && (
        <span class="ix-legend-note" role="status">
          {wanted.size ? (
            <>
              finds{" "}
              <bdi class="ix-mono">
                {[...wanted]
                  .map((id) => visible(lens.texts[id] ?? ""))
                  .slice(0, 4)
                  .join("  ")}
              </bdi>
              : rank and probability
            </>
          ) : (
            `among the ${keptOf(lens, id)} most probable nowhere`
          )}
        </span>
      )}
    </>
  );
}

function savedOf(look: Look, { prompt, range, tokens, state, sought: typed }: Selection): Saved {
  const { data, lens, wanted } = look;
  const { first, length } = span(data, prompt);
  const rows = rowsOf(lens, range);
  const light = coloursOf("light");
  const paint = scale(0, 1, light);
  const shown = Math.min(length, SAVED_COLUMNS);
  const last = tokens[tokens.length - 1] ?? 0;
  const from = savedFrom(length, last);
  const positions = Array.from({ length: shown }, (_, i) => from + i);
  const at = column(lens, state);
  const sides = look.control && lens.control ? [false, true] : [false];
  const row = 24 * sides.length;
  const figure = () => ({
    width: HEAD + shown * CELL,
    height: 74 + rows.length * row,
    content: (
      <g font-family={MONO} font-size={11}>
        <FigureLegend
          scale={paint}
          x={0}
          y={12}
          label="probability"
          muted={light.muted}
          ink={light.ink}
          id="ix-lens-scale"
        />
        {length > shown && (
          <text x={150} y={20} fill={light.muted}>
            positions {from} to {from + shown - 1} of {length}; the CSV has all
          </text>
        )}
        {positions.map((p, i) => (
          <g key={p} text-anchor="middle" transform={`translate(${HEAD + (i + 0.5) * CELL} 64)`}>
            <text y={-14} font-size={9.5} fill={light.muted}>
              {p}
            </text>
            <text
              fill={tokens.includes(p) ? light.accent : light.ink}
              font-weight={tokens.includes(p) ? 700 : 600}
            >
              {short(text(data, first + p), 11)}
            </text>
          </g>
        ))}
        {rows.map((s, i) => (
          <g key={s} transform={`translate(0 ${72 + i * row})`}>
            <text x={HEAD - 8} y={16} text-anchor="end" fill={light.muted}>
              {rowName(lens, s)}
            </text>
            {positions.map((p, column) =>
              sides.map((side) => {
                const { text: word, share } = reading(lens, wanted, first + p, s, side);
                const fill = Number.isNaN(share) ? light.paper : paint.colour(share);
                return (
                  <g key={`${p}${side}`} transform={`translate(${HEAD + column * CELL} ${side ? 24 : 0})`}>
                    <rect
                      width={CELL - 1}
                      height={23}
                      fill={fill}
                      stroke={s === at && p === last ? light.tokens[1] : undefined}
                      stroke-width={2}
                    />
                    <text
                      x={CELL / 2}
                      y={15}
                      text-anchor="middle"
                      fill={inkOn(fill, light)}
                      font-style={side ? "italic" : undefined}
                    >
                      {short(word, 11)}
                    </text>
                  </g>
                );
              }),
            )}
          </g>
        ))}
      </g>
    ),
  });
  const sheet = () => ({
    columns: ["prompt", "position", "token", "state", "place", "of", "rank", "reads", "probability"],
    rows: Array.from({ length }, (_, p) => first + p).flatMap((token) =>
      rows.flatMap((s) =>
        sides.flatMap((side) =>
          readoutAt(lens, token, s, side).map((read, i): Cell[] => [
            data.ids[prompt] ?? 0,
            token - first,
            JSON.stringify(rawText(data, token)),
            lens.states[s] ?? 0,
            stateName(lens.states[s] ?? 0),
            side ? data.controlName : "model",
            i + 1,
            JSON.stringify(read.raw),
            read.prob,
          ]),
        ),
      ),
    ),
  });
  const what =
    (typed ? `rank and probability of ${visible(typed)}` : "most probable token") +
    (sides.length > 1 ? `; italic: ${data.controlName}` : "");
  return {
    name: [data.title, "lens", `prompt ${data.ids[prompt] ?? 0}`],
    title: `Lens, prompt ${data.ids[prompt] ?? 0}: ${what}`,
    provenance: data.provenance,
    figure,
    sheet,
  };
}

export function LensView() {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const { prompt, control, sought: typed } = store.selection.value;
  const { lens } = data;
  const wanted = useMemo(() => (lens ? sought(lens, typed) : new Set<number>()), [lens, typed]);
  const paint = useMemo(() => scale(0, 1, colours), [colours]);
  if (!lens)
    return (
      <Panel view="lens" title="Lens">
        <Missing what="This file holds no readings of the lens." command={data.missing["lens"]} />
      </Panel>
    );
  const id = data.ids[prompt];
  if (id !== undefined && !lens.prompts.has(id)) {
    return (
      <Panel view="lens" title="Lens">
        <Missing
          what={`The readings of prompt ${id} were not kept.`}
          command={data.more["lens"] ?? data.missing["lens"]}
          elsewhere={[...lens.prompts]}
        />
      </Panel>
    );
  }
  const look: Look = { data, lens, wanted, paint, colours, control };
  return (
    <Panel
      view="lens"
      title="Lens"
      saved={savedOf(look, store.selection.value)}
      hint={hintOf(data, lens, id)}
      controls={
        <>
          <Search lens={lens} wanted={wanted} />
          <Legend scale={paint} title="probability" unit="" />
        </>
      }
    >
      {control && !lens.control && <NoControl what="readings of the lens" />}
      <div class="ix-lens-both">
        <Table look={look} />
        <Chosen look={look} />
      </div>
    </Panel>
  );
}
