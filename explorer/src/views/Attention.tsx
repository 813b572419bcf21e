/** Heads by a statistic, the chosen head's map, its arcs over the text, and the rollout. */

import { useEffect, useMemo, useRef } from "preact/hooks";
import { type Colours, coloursOf, scale, type Scale } from "../colours.ts";
import {
  type Attention,
  type Data,
  type Pattern,
  rawText,
  type Rollout,
  span,
  type Statistic,
  stateName,
  text,
} from "../data.ts";
import type { Saved } from "../export.tsx";
import { type Cell, exact, number, percent, short } from "../format.ts";
import { useWidth } from "../hooks.ts";
import { type Arc, Arcs, LEAST, layArcs } from "../parts/Arcs.tsx";
import { Choose, Missing, NoControl, Panel, Segments } from "../parts/Controls.tsx";
import { FigureLegend, Legend } from "../parts/Legend.tsx";
import { Matrix } from "../parts/Matrix.tsx";
import type { Id } from "../payload.ts";
import type { Selection } from "../selection.ts";
import { type Store, useStore } from "../store.ts";
import { extent } from "../summary.ts";

const MOST_ARCS = 40;

/** The values of a map and where in them it begins; null where none was kept. */
interface Kept {
  values: Float32Array;
  control: Float32Array | null;
  offset: number;
  length: number;
  /** What the control is, if it is not that of the run. */
  controlName: string;
  name: string;
  head: string;
}

export function patternOf(attention: Attention, prompt: Id, [block, head]: [number, number]): Kept | null {
  const pattern: Pattern | undefined = attention.patterns.find(
    (p) => p.prompt === prompt && p.blocks.includes(block) && p.heads.includes(head),
  );
  if (!pattern) return null;
  const place = pattern.blocks.indexOf(block) * pattern.heads.length + pattern.heads.indexOf(head);
  return {
    values: pattern.values,
    control: pattern.control,
    length: pattern.length,
    offset: place * pattern.length ** 2,
    controlName: "",
    name: `block ${block}, head ${head}`,
    head: `${block}.${head}`,
  };
}

export function rolloutOf(attention: Attention, prompt: Id, state: number): Kept | null {
  const found: Rollout | undefined = attention.rollout.find((r) => r.prompt === prompt);
  if (!found) return null;
  // A rollout that begins after block 0 has one map less than there are states.
  const whole = found.states > attention.blocks;
  const s = found.states === 1 ? 0 : Math.max(0, Math.min(found.states - 1, whole ? state : state - 1));
  const shown = found.states === 1 ? "the whole depth" : stateName(whole ? s : s + 1);
  return {
    values: found.values,
    control: found.control,
    length: found.length,
    offset: s * found.length ** 2,
    controlName: "even attention",
    name: `rollout, ${shown}`,
    head: "rollout",
  };
}

/** The weights of a row (what a token looks at) and of a column (what looks at it), the strong ones. */
export function arcsOf(kept: Kept, query: number): { to: Arc[]; from: Arc[] } {
  const { values, offset, length } = kept;
  // A map may hold the first tokens of a long prompt only.
  if (query >= length) return { to: [], from: [] };
  const strong = (weight: (i: number) => number) =>
    Array.from({ length }, (_, position) => ({ position, weight: weight(position) }))
      .filter((arc) => arc.weight >= LEAST)
      .sort((a, b) => b.weight - a.weight)
      .slice(0, MOST_ARCS);
  return {
    to: strong((k) => values[offset + query * length + k] ?? 0),
    from: strong((q) => (q === query ? 0 : (values[offset + q * length + query] ?? 0))),
  };
}

interface GridProps {
  attention: Attention;
  statistic: Statistic;
  values: Float32Array;
  control: boolean;
  paint: Scale;
  colours: Colours;
  head: [number, number];
  width: number;
  onChoose?: (block: number, head: number) => void;
}

const LEFT = 34;
const TOP = 24;
const cellSize = (width: number, heads: number) => Math.max(7, Math.min(52, (width - LEFT - 4) / heads));
const cellHeight = (cell: number, blocks: number) => Math.max(9, Math.min(28, cell, 440 / blocks));

export function Heads({
  attention,
  statistic,
  values,
  control,
  paint,
  colours,
  head,
  width,
  onChoose,
}: GridProps) {
  const cell = cellSize(width, attention.heads);
  const tall = cellHeight(cell, attention.blocks);
  const every = Math.ceil(22 / cell);
  return (
    <g font-size={10.5} fill={colours.muted}>
      {Array.from(
        { length: attention.heads },
        (_, h) =>
          h % every === 0 && (
            <text key={h} x={LEFT + (h + 0.5) * cell} y={TOP - 6} text-anchor="middle">
              {h}
            </text>
          ),
      )}
      <text x={LEFT + (attention.heads * cell) / 2} y={8} text-anchor="middle" font-size={10}>
        head
      </text>
      {Array.from({ length: attention.blocks }, (_, b) => (
        <g key={b} transform={`translate(0 ${TOP + b * tall})`}>
          {b % Math.ceil(13 / tall) === 0 && (
            <text x={LEFT - 6} y={tall / 2} dy="0.34em" text-anchor="end">
              {b}
            </text>
          )}
          {Array.from({ length: attention.heads }, (__, h) => {
            const value = values[b * attention.heads + h] ?? NaN;
            return (
              <rect
                key={h}
                x={LEFT + h * cell}
                width={cell - 1}
                height={tall - 1}
                fill={Number.isNaN(value) ? colours.paper : paint.colour(value)}
                stroke={Number.isNaN(value) ? colours.grid : undefined}
                data-head={`${b}.${h}`}
                data-statistic={statistic.name}
                data-value={exact(value)}
                data-control={control ? "true" : undefined}
                onClick={
                  onChoose &&
                  (() => {
                    onChoose(b, h);
                  })
                }
                style={onChoose ? "cursor: pointer" : undefined}
              />
            );
          })}
        </g>
      ))}
      <rect
        x={LEFT + head[1] * cell - 1}
        y={TOP + head[0] * tall - 1}
        width={cell + 1}
        height={tall + 1}
        fill="none"
        stroke={colours.tokens[1]}
        stroke-width={2.5}
        pointer-events="none"
      />
    </g>
  );
}

const gridHeight = (attention: Attention, width: number) =>
  TOP + attention.blocks * cellHeight(cellSize(width, attention.heads), attention.blocks) + 4;

/** Arrow keys move the head while the focus is on the grid. */
function headKeys(store: Store) {
  return (event: KeyboardEvent) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const [block, head] = store.selection.peek().head;
    store.select({ head: [block + (step[0] ?? 0), head + (step[1] ?? 0)], rollout: false });
  };
}

interface MapProps {
  data: Data;
  kept: Kept;
  control: boolean;
  first: number;
  tokens: number[];
  paint: Scale;
  colours: Colours;
  size: number;
}

const EDGE = 78;

export function AttentionMap({ data, kept, control, first, tokens, paint, colours, size }: MapProps) {
  const { length, offset } = kept;
  const cell = size / Math.max(1, length);
  const every = Math.max(1, Math.ceil(11 / cell));
  const names = Array.from({ length }, (_, i) => i).filter((i) => i % every === 0);
  const values = control ? kept.control : kept.values;
  if (!values) return null;
  return (
    <g font-size={10} fill={colours.muted}>
      {names.map((i) => (
        <text
          key={`q${i}`}
          x={EDGE - 5}
          y={EDGE + (i + 0.5) * cell}
          dy="0.34em"
          text-anchor="end"
          fill={tokens.includes(i) ? colours.ink : colours.muted}
          font-weight={tokens.includes(i) ? 700 : 400}
        >
          {short(text(data, first + i), 10)}
        </text>
      ))}
      {names.map((i) => (
        <text
          key={`k${i}`}
          transform={`translate(${EDGE + (i + 0.5) * cell} ${EDGE - 5}) rotate(-60)`}
          dy="0.3em"
        >
          {short(text(data, first + i), 10)}
        </text>
      ))}
      <g transform={`translate(${EDGE} ${EDGE})`}>
        <rect width={size} height={size} fill="none" stroke={colours.grid} />
        <Matrix
          values={values}
          offset={offset}
          length={length}
          size={size}
          scale={paint}
          head={kept.head}
          control={control}
        />
        {tokens
          .filter((q) => q < length)
          .map((q, i) => (
            <rect
              key={q}
              y={q * cell}
              width={size}
              height={Math.max(2, cell)}
              fill="none"
              stroke={colours.tokens[i % colours.tokens.length]}
              stroke-width={1.75}
              pointer-events="none"
            />
          ))}
      </g>
      <text x={EDGE - 8} y={EDGE - 22} text-anchor="end">
        key →
      </text>
      <text x={EDGE - 8} y={EDGE - 8} text-anchor="end">
        query ↓
      </text>
    </g>
  );
}

function MapPanel(props: MapProps & { title: string }) {
  const store = useStore();
  const { data, kept, first, size, control, title } = props;
  const cellAt = (event: PointerEvent | MouseEvent): [number, number] | null => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    const zoom = (size + EDGE + 6) / box.width;
    const at = [event.clientY - box.top, event.clientX - box.left].map((v) =>
      Math.floor(((v * zoom - EDGE) / size) * kept.length),
    );
    const [query = -1, key = -1] = at;
    return query >= 0 && key >= 0 && query < kept.length && key < kept.length ? [query, key] : null;
  };
  const hover = (event: PointerEvent) => {
    const at = cellAt(event);
    if (!at) {
      store.tip.value = null;
      return;
    }
    const [query, key] = at;
    const value = (control ? kept.control : kept.values)?.[kept.offset + query * kept.length + key] ?? NaN;
    store.tip.value = {
      x: event.clientX,
      y: event.clientY,
      content: (
        <p class="ix-tip-head">
          <bdi class="ix-mono">{short(text(data, first + query), 24)}</bdi>
          <span>({query}) looks at</span>
          <bdi class="ix-mono">{short(text(data, first + key), 24)}</bdi>
          <span>
            ({key}): {percent(value)}
          </span>
        </p>
      ),
    };
  };
  const side = size + EDGE + 6;
  return (
    <svg
      class="ix-figure"
      width={side}
      height={side}
      viewBox={`0 0 ${side} ${side}`}
      role="img"
      aria-label={`Attention map, ${title}: queries by keys; the CSV holds the numbers`}
      onPointerMove={hover}
      onPointerLeave={() => {
        store.tip.value = null;
      }}
      onClick={(e) => {
        const at = cellAt(e);
        if (at) store.choose(at[0], e.shiftKey);
      }}
    >
      <AttentionMap {...props} />
    </svg>
  );
}

function ArcsPanel({ kept, title }: { kept: Kept; title: string }) {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const { prompt, tokens } = store.selection.value;
  const { first } = span(data, prompt);
  const query = tokens[tokens.length - 1] ?? 0;
  const { to, from } = useMemo(() => arcsOf(kept, query), [kept, query]);
  const props = { texts: (p: number) => text(data, first + p), length: kept.length, query, to, from };
  const { words, width, height } = layArcs(props);
  const best = to[0];
  const pane = useRef<HTMLDivElement>(null);
  const at = words.find((w) => w.position === query)?.x ?? 0;
  useEffect(() => {
    const box = pane.current;
    if (box && (at < box.scrollLeft + 40 || at > box.scrollLeft + box.clientWidth - 60))
      box.scrollLeft = Math.max(0, at - box.clientWidth * 0.6);
  }, [at]);
  return (
    <>
      <p class="ix-note" aria-live="polite">
        <bdi class="ix-mono">{short(props.texts(query), 24)}</bdi> (position {query}){" "}
        {best ? (
          <>
            looks most at <bdi class="ix-mono">{short(props.texts(best.position), 24)}</bdi> (position{" "}
            {best.position}): {percent(best.weight)}.
          </>
        ) : query < kept.length ? (
          "looks at no token with 1 % or more."
        ) : (
          `is not in the map, which holds the first ${kept.length} tokens.`
        )}{" "}
        Above the text: where it looks. Below, grey: which tokens look at it.
      </p>
      <div ref={pane} class="ix-scroll" tabIndex={0} role="region" aria-label="Arcs over the text">
        <svg
          class="ix-figure"
          width={width}
          height={height}
          role="img"
          aria-label={`Attention of the chosen token, ${title}`}
        >
          <Arcs
            {...props}
            colours={colours}
            colour={colours.tokens[Math.max(0, tokens.length - 1) % colours.tokens.length] ?? colours.ink}
            head={kept.head}
            onChoose={(position) => {
              store.choose(position, false);
            }}
          />
        </svg>
      </div>
    </>
  );
}

const statisticOf = (attention: Attention, name: string): Statistic | undefined =>
  attention.statistics.find((s) => s.name === name) ?? attention.statistics[0];

function savedOf(
  data: Data,
  attention: Attention,
  selection: Selection,
  statistic: Statistic | undefined,
  kept: Kept | null,
): Saved {
  const look = coloursOf("light");
  const { prompt, tokens, head } = selection;
  const { first } = span(data, prompt);
  const paint = statistic ? scale(...extent(statistic.values), look) : null;
  const weights = scale(0, 1, look);
  const query = tokens[tokens.length - 1] ?? 0;
  const figure = () => {
    const grid = gridHeight(attention, 400);
    const arcs = kept && arcsOf(kept, query);
    const words = {
      texts: (p: number) => text(data, first + p),
      length: kept?.length ?? 0,
      query,
      to: arcs?.to ?? [],
      from: arcs?.from ?? [],
    };
    const laid = layArcs(words);
    const middle = Math.max(grid + 40, kept ? 480 : 0);
    const content = (
      <g>
        {statistic && paint && (
          <>
            <FigureLegend
              scale={paint}
              x={LEFT}
              y={14}
              label={statistic.title}
              muted={look.muted}
              ink={look.ink}
              id="ix-statistic"
            />
            <g transform="translate(0 44)">
              <Heads
                attention={attention}
                statistic={statistic}
                values={statistic.values}
                control={false}
                paint={paint}
                colours={look}
                head={head}
                width={400}
              />
            </g>
          </>
        )}
        {kept && (
          <g transform="translate(430 0)">
            <text x={EDGE} y={12} font-size={12} font-weight={600} fill={look.ink}>
              {kept.name}
            </text>
            <g transform="translate(0 14)">
              <AttentionMap
                data={data}
                kept={kept}
                control={false}
                first={first}
                tokens={tokens}
                paint={weights}
                colours={look}
                size={360}
              />
            </g>
          </g>
        )}
        {kept && (
          <g transform={`translate(0 ${middle})`}>
            <Arcs {...words} colours={look} colour={look.tokens[0] ?? look.ink} head={kept.head} />
          </g>
        )}
      </g>
    );
    return {
      content,
      width: Math.max(880, kept ? laid.width : 0),
      height: middle + (kept ? laid.height : 0),
    };
  };
  const sheet = () => {
    const columns = [
      "what",
      "name",
      "block",
      "head",
      "query",
      "query_token",
      "key",
      "key_token",
      "value",
      "control",
    ];
    const rows: Cell[][] = attention.statistics.flatMap((s) =>
      Array.from(s.values, (value, i): Cell[] => [
        "head",
        s.name,
        Math.floor(i / attention.heads),
        i % attention.heads,
        null,
        null,
        null,
        null,
        value,
        s.control?.[i] ?? null,
      ]),
    );
    if (kept) {
      for (let i = 0; i < kept.length ** 2; i++) {
        const [q, k] = [Math.floor(i / kept.length), i % kept.length];
        const word = (p: number) => JSON.stringify(rawText(data, first + p));
        rows.push([
          "attention",
          kept.name,
          selection.rollout ? null : head[0],
          selection.rollout ? null : head[1],
          q,
          word(q),
          k,
          word(k),
          kept.values[kept.offset + i] ?? NaN,
          kept.control?.[kept.offset + i] ?? null,
        ]);
      }
    }
    return { columns, rows };
  };
  return {
    name: [data.title, "attention", `prompt ${data.ids[prompt] ?? 0}`, kept?.name ?? ""],
    title: `Attention, prompt ${data.ids[prompt] ?? 0}${kept ? `: ${kept.name}` : ""}`,
    provenance: data.provenance,
    figure,
    sheet,
  };
}

function HeadValues({
  attention,
  block,
  head,
  chosen,
  control,
}: {
  attention: Attention;
  block: number;
  head: number;
  chosen: Statistic;
  control: boolean;
}) {
  const at = block * attention.heads + head;
  return (
    <>
      <p class="ix-tip-head">
        <span>
          block {block}, head {head}
        </span>
      </p>
      <table class="ix-values">
        <tbody>
          {attention.statistics.map((s) => (
            <tr key={s.name} class={s === chosen ? "ix-chosen" : ""}>
              <th scope="row">{s.title}</th>
              <td>{number(s.values[at])}</td>
              {control && s.control && <td class="ix-of-control">{number(s.control[at])}</td>}
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

function Grid({ attention, statistic, paint }: { attention: Attention; statistic: Statistic; paint: Scale }) {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const { head, control } = store.selection.value;
  const box = useRef<HTMLDivElement>(null);
  const room = Math.min(useWidth(box, 420), 460);
  const sides = control && statistic.control ? [false, true] : [false];
  const half = Math.floor((room - 12) / 2);
  const width = sides.length > 1 && half > LEFT + 12 * attention.heads ? half : room;
  const height = gridHeight(attention, width);
  const hover = (event: PointerEvent) => {
    const cell =
      event.target instanceof Element ? event.target.closest<SVGElement>("[data-statistic]") : null;
    const [block, of] = (cell?.dataset["head"] ?? "").split(".").map(Number);
    store.tip.value =
      block === undefined || of === undefined
        ? null
        : {
            x: event.clientX,
            y: event.clientY,
            content: (
              <HeadValues
                attention={attention}
                block={block}
                head={of}
                chosen={statistic}
                control={control}
              />
            ),
          };
  };
  return (
    <div ref={box} class="ix-heads">
      {sides.map((side) => (
        <div key={String(side)}>
          {sides.length > 1 && <p class="ix-note">{side ? data.controlName : "model"}</p>}
          <svg
            class="ix-figure"
            width={width}
            height={height}
            tabIndex={side ? undefined : 0}
            role="img"
            onKeyDown={headKeys(store)}
            onPointerOver={hover}
            onPointerLeave={() => {
              store.tip.value = null;
            }}
            aria-label={`${statistic.title} of every head${side ? `, ${data.controlName}` : ""}; arrow keys choose a head: block ${head[0]}, head ${head[1]}, ${number(statistic.values[head[0] * attention.heads + head[1]])}`}
          >
            <Heads
              attention={attention}
              statistic={statistic}
              values={(side ? statistic.control : statistic.values) ?? statistic.values}
              control={side}
              paint={paint}
              colours={colours}
              head={head}
              width={width}
              onChoose={(b, h) => {
                store.select({ head: [b, h], rollout: false });
              }}
            />
          </svg>
        </div>
      ))}
    </div>
  );
}

/** The heads with the largest values, as buttons: most questions are about these. */
function Strongest({ attention, statistic }: { attention: Attention; statistic: Statistic }) {
  const store = useStore();
  const best = [...statistic.values.keys()]
    .filter((i) => Number.isFinite(statistic.values[i] ?? NaN))
    .sort((a, b) => (statistic.values[b] ?? 0) - (statistic.values[a] ?? 0))
    .slice(0, 4);
  return (
    <p class="ix-strongest">
      Largest:{" "}
      {best.map((i) => {
        const [b, h] = [Math.floor(i / attention.heads), i % attention.heads];
        return (
          <button
            key={i}
            type="button"
            class="ix-small"
            onClick={() => {
              store.select({ head: [b, h], rollout: false });
            }}
          >
            {b}.{h} <span class="ix-unit">{number(statistic.values[i], 3)}</span>
          </button>
        );
      })}
    </p>
  );
}

/** The chosen map of the prompt: a head's or the rollout's. */
function keptOf(attention: Attention, id: Id, { rollout, head, state }: Selection): Kept | null {
  return rollout ? rolloutOf(attention, id, state) : patternOf(attention, id, head);
}

function NoMap({ attention, id }: { attention: Attention; id: Id }) {
  const store = useStore();
  const { more, missing } = store.data.value;
  const { rollout, head } = store.selection.value;
  const what = rollout ? "rollout" : `map of block ${head[0]}, head ${head[1]}`;
  const elsewhere = [...new Set((rollout ? attention.rollout : attention.patterns).map((p) => p.prompt))];
  return (
    <Missing
      what={`The ${what} of prompt ${id} was not kept.`}
      command={more["attention"] ?? missing["attention"]}
      elsewhere={elsewhere}
    />
  );
}

/** The map and its arcs. */
function Maps({ kept, width }: { kept: Kept; width: number }) {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const { prompt, tokens, control } = store.selection.value;
  const paint = useMemo(() => scale(0, 1, colours), [colours]);
  const size = Math.max(60, Math.min(kept.length > 24 ? 540 : 400, width - EDGE - 10, 40 * kept.length));
  const props = {
    data,
    kept,
    first: span(data, prompt).first,
    tokens,
    paint,
    colours,
    size,
    title: kept.name,
  };
  return (
    <>
      <div class="ix-map">
        <MapPanel {...props} control={false} />
        {control && kept.control && (
          <div>
            <p class="ix-note">{kept.controlName || data.controlName}</p>
            <MapPanel {...props} control />
          </div>
        )}
      </div>
      <ArcsPanel kept={kept} title={kept.name} />
    </>
  );
}

function Controls({
  attention,
  statistic,
  paint,
}: {
  attention: Attention;
  statistic: Statistic | undefined;
  paint: Scale;
}) {
  const store = useStore();
  const { rollout } = store.selection.value;
  const maps = [
    { value: "head", text: "Head" },
    { value: "rollout", text: "Rollout" },
  ];
  return (
    <>
      {statistic && (
        <>
          <Choose
            label="Heads by"
            value={statistic.name}
            options={attention.statistics.map((s) => ({ value: s.name, text: s.title }))}
            onChoose={(value) => {
              store.select({ statistic: value });
            }}
          />
          <Legend scale={paint} title={statistic.title} unit="" />
        </>
      )}
      {attention.rollout.length > 0 && (
        <Segments
          label="Map"
          value={rollout ? "rollout" : "head"}
          options={maps}
          onChoose={(value) => {
            store.select({ rollout: value === "rollout" });
          }}
        />
      )}
    </>
  );
}

function hintOf(statistic: Statistic | undefined, rollout: boolean): string {
  return [
    statistic &&
      `${statistic.title}: ${statistic.doc || "see the analysis"}; mean over the ordinary tokens of all prompts.`,
    rollout &&
      "The rollout multiplies the heads' mean attention of all blocks up to the chosen layer, with the residual stream as half of each.",
    "Click a head for its map, a row of the map for a token.",
  ]
    .filter(Boolean)
    .join(" ");
}

/** Both sides of a statistic share one scale. */
function headExtent(statistic: Statistic | undefined, control: boolean): [number, number] {
  if (!statistic) return [0, 1];
  return extent([...statistic.values, ...(control && statistic.control ? statistic.control : [])]);
}

function Inside({ attention }: { attention: Attention }) {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const selection = store.selection.value;
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box, 500);
  const id = data.ids[selection.prompt] ?? -1;
  const statistic = statisticOf(attention, selection.statistic);
  const kept = keptOf(attention, id, selection);
  const paint = scale(...headExtent(statistic, selection.control), colours);
  const uncontrolled = selection.control && !statistic?.control && !kept?.control;
  return (
    <Panel
      view="attention"
      title={kept ? `Attention: ${kept.name}` : "Attention"}
      saved={savedOf(data, attention, selection, statistic, kept)}
      hint={hintOf(statistic, selection.rollout)}
      controls={<Controls attention={attention} statistic={statistic} paint={paint} />}
    >
      {uncontrolled && <NoControl what="attention" />}
      <div class="ix-attention">
        {statistic && (
          <div>
            <Strongest attention={attention} statistic={statistic} />
            <Grid attention={attention} statistic={statistic} paint={paint} />
          </div>
        )}
        <div ref={box} class="ix-maps">
          {kept ? <Maps kept={kept} width={width} /> : <NoMap attention={attention} id={id} />}
        </div>
      </div>
      {attention.notes.map((note, i) => (
        <p key={i} class="ix-note">
          {note}
        </p>
      ))}
    </Panel>
  );
}

export function AttentionView() {
  const { attention, missing } = useStore().data.value;
  if (attention) return <Inside attention={attention} />;
  return (
    <Panel view="attention" title="Attention">
      <Missing what="This file holds no attention." command={missing["attention"]} />
    </Panel>
  );
}
