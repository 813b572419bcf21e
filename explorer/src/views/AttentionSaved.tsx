/** What is saved of the attention view. */

import { extent } from "../summary.ts";
import { arcsOf, type Kept } from "../attention.ts";
import { coloursOf, scale } from "../colours.ts";
import { type Attention, type Data, rawText, span, type Statistic, text } from "../data.ts";
import type { Saved } from "../export.tsx";
import type { Cell } from "../format.ts";
import { Arcs, layArcs } from "../parts/Arcs.tsx";
import { AttentionMap, MAP_EDGE } from "../parts/AttentionMap.tsx";
import { gridHeight, Heads, HEADS_LEFT } from "../parts/Heads.tsx";
import { FigureLegend } from "../parts/Legend.tsx";
import type { Selection } from "../selection.ts";

/** A saved line of text is at most so wide; a longer one keeps the tokens that have an arc. */
const WIDEST = 1240;

function fitted(words: Parameters<typeof layArcs>[0]) {
  const all = layArcs(words).width > WIDEST ? { all: 0 } : {};
  const laid = layArcs({ ...words, ...all });
  return { all, laid, zoom: Math.min(1, WIDEST / laid.width) };
}

export function savedOf(
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
    const { all, laid, zoom } = fitted(words);
    const middle = Math.max(grid + 40, kept ? 496 : 0);
    const content = (
      <g>
        {statistic && paint && (
          <>
            <FigureLegend
              scale={paint}
              x={HEADS_LEFT}
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
            <text x={MAP_EDGE} y={12} font-size={12} font-weight={600} fill={look.ink}>
              {kept.name}
            </text>
            <FigureLegend
              scale={weights}
              x={300}
              y={14}
              label="attention weight"
              muted={look.muted}
              ink={look.ink}
              id="ix-weights"
            />
            <g transform="translate(0 28)">
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
          <g transform={`translate(0 ${middle}) scale(${zoom})`}>
            <Arcs {...words} {...all} colours={look} colour={look.tokens[0] ?? look.ink} head={kept.head} />
          </g>
        )}
      </g>
    );
    return {
      content,
      width: Math.max(880, kept ? laid.width * zoom : 0),
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
