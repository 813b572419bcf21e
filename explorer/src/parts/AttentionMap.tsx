/** The chosen map, queries by keys, and the arcs of the chosen token under it. */

import { useEffect, useMemo, useRef } from "preact/hooks";
import { arcsOf, type Kept } from "../attention.ts";
import { type Colours, type Scale, scale } from "../colours.ts";
import { type Data, span, text } from "../data.ts";
import { percent, short } from "../format.ts";
import { useStore } from "../store.ts";
import { Arcs, layArcs } from "./Arcs.tsx";
import { Legend } from "./Legend.tsx";
import { Matrix } from "./Matrix.tsx";

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

export const MAP_EDGE = 78;

/** Which tokens of a map are named: every so many, and always the chosen ones, which have their room. */
export const namedOn = (length: number, every: number, chosen: number[]): number[] =>
  Array.from({ length }, (_, i) => i).filter(
    (i) =>
      chosen.includes(i) || (i % every === 0 && !chosen.some((c) => every > 1 && Math.abs(c - i) < every)),
  );

export function AttentionMap({ data, kept, control, first, tokens, paint, colours, size }: MapProps) {
  const { length, offset } = kept;
  const cell = size / Math.max(1, length);
  const every = Math.max(1, Math.ceil(11 / cell));
  const names = namedOn(length, every, tokens);
  const values = control ? kept.control : kept.values;
  if (!values) return null;
  return (
    <g font-size={10} fill={colours.muted}>
      {names.map((i) => (
        <text
          key={`q${i}`}
          x={MAP_EDGE - 5}
          y={MAP_EDGE + (i + 0.5) * cell}
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
          transform={`translate(${MAP_EDGE + (i + 0.5) * cell} ${MAP_EDGE - 5}) rotate(-60)`}
          dy="0.3em"
        >
          {short(text(data, first + i), 10)}
        </text>
      ))}
      <g transform={`translate(${MAP_EDGE} ${MAP_EDGE})`}>
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
      <text x={MAP_EDGE - 8} y={MAP_EDGE - 22} text-anchor="end">
        key →
      </text>
      <text x={MAP_EDGE - 8} y={MAP_EDGE - 8} text-anchor="end">
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
    const zoom = (size + MAP_EDGE + 6) / box.width;
    const at = [event.clientY - box.top, event.clientX - box.left].map((v) =>
      Math.floor(((v * zoom - MAP_EDGE) / size) * kept.length),
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
  const side = size + MAP_EDGE + 6;
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

export function ArcsPanel({ kept, title }: { kept: Kept; title: string }) {
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

/** The map and its arcs. */
export function Maps({ kept, width }: { kept: Kept; width: number }) {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const { prompt, tokens, control } = store.selection.value;
  const paint = useMemo(() => scale(0, 1, colours), [colours]);
  const size = Math.max(60, Math.min(kept.length > 24 ? 540 : 400, width - MAP_EDGE - 10, 40 * kept.length));
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
      <div class="ix-map-legend">
        <Legend scale={paint} title="attention weight" unit="" />
      </div>
      <div class="ix-map">
        <MapPanel {...props} control={false} />
        {control && kept.control && (
          <div>
            <p class="ix-note">{kept.controlName || data.controlName}</p>
            <MapPanel {...props} control />
          </div>
        )}
      </div>
    </>
  );
}
