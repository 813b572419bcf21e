/** The chips of a prompt as a figure to save, and their numbers as a table. */

import { coloursOf, inkOn, MONO, scale } from "../colours.ts";
import { column, type Data, type Measure, place, rawText, span, text, valueOf } from "../data.ts";
import type { Saved } from "../export.tsx";
import { type Cell, short } from "../format.ts";
import { FigureLegend } from "../parts/Legend.tsx";
import { extentAt } from "../summary.ts";

const WIDTH = 860;
const LINE = 38;
const SIZE = 13;
const PAD = 5;

/** About the width of a text in the fixed-width font; wide letters count twice. */
export function widthOf(text: string, size = SIZE): number {
  let units = 0;
  for (const c of text)
    units +=
      /[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60]|\p{Extended_Pictographic}/u.test(
        c,
      )
        ? 2
        : 1;
  return units * size * 0.605;
}

interface Placed {
  token: number;
  text: string;
  x: number;
  y: number;
  width: number;
}

function laid(data: Data, prompt: number): { placed: Placed[]; height: number } {
  const { first, length } = span(data, prompt);
  const placed: Placed[] = [];
  let [x, y] = [0, 0];
  for (let token = first; token < first + length; token++) {
    const word = short(text(data, token), 48);
    const width = widthOf(word) + 2 * PAD;
    if (token > first && (!data.word || data.word[token])) x += 4;
    if (x > 0 && x + width > WIDTH) [x, y] = [0, y + LINE];
    placed.push({ token, text: word, x, y, width });
    x += width + 1;
    if (rawText(data, token).includes("\n")) [x, y] = [0, y + LINE];
  }
  return { placed, height: y + LINE };
}

const labelOf = ({ title, unit }: Measure, control: string) =>
  `${title}${unit && ` (${unit})`}${control && `; strips: ${control}`}`;

export function textFigure(
  data: Data,
  prompt: number,
  tokens: number[],
  measure: Measure | null,
  state: number,
  control: boolean,
): Pick<Saved, "figure" | "sheet"> {
  const { first } = span(data, prompt);
  const depth = measure ? column(measure, state) : 0;
  const figure = () => {
    const look = coloursOf("light");
    const paint = measure ? scale(...extentAt(data, measure, depth), look) : null;
    const { placed, height } = laid(data, prompt);
    const under = control && measure?.control ? measure.control : null;
    const content = (
      <g>
        {paint && measure && (
          <FigureLegend
            scale={paint}
            x={0}
            y={14}
            label={labelOf(measure, under ? data.controlName : "")}
            muted={look.muted}
            ink={look.ink}
            id="ix-scale"
          />
        )}
        <g transform="translate(0 52)" font-family={MONO} font-size={SIZE}>
          {placed.map(({ token, text: word, x, y, width }) => {
            const fill = measure && paint ? paint.colour(valueOf(measure, token, depth)) : "transparent";
            const chosen = tokens.indexOf(token - first);
            return (
              <g key={token} transform={`translate(${x} ${y})`}>
                <rect
                  width={width}
                  height={24}
                  rx={3}
                  fill={fill}
                  stroke={chosen >= 0 ? look.tokens[chosen % look.tokens.length] : look.grid}
                  stroke-width={chosen >= 0 ? 2.5 : 1}
                  stroke-dasharray={data.special?.[token] ? "3 2" : undefined}
                />
                {under && measure && (
                  <rect
                    y={25}
                    width={width}
                    height={5}
                    fill={paint?.colour(valueOf(measure, token, depth, true)) ?? ""}
                  />
                )}
                <text x={PAD} y={17} fill={inkOn(fill, look)} style="white-space: pre">
                  {word}
                </text>
                {data.generated?.[token] ? (
                  <line x1={1} x2={width - 1} y1={31.5} y2={31.5} stroke={look.tokens[1]} stroke-width={2} />
                ) : null}
              </g>
            );
          })}
        </g>
      </g>
    );
    return { content, width: WIDTH, height: height + 56 };
  };
  const sheet = () => {
    const { length } = span(data, prompt);
    const sides = control ? [false, true] : [false];
    const all = data.measures.flatMap((m) =>
      sides.filter((side) => !side || m.control).map((side) => ({ m, side, d: column(m, state) })),
    );
    const named = all.map(({ m, side, d }) =>
      [m.name, place(m, d), side && data.controlName].filter(Boolean).join(", "),
    );
    const columns = ["prompt", "position", "token", ...named];
    const rows = Array.from({ length }, (_, position): Cell[] => [
      data.ids[prompt] ?? 0,
      position,
      JSON.stringify(rawText(data, first + position)),
      ...all.map(({ m, d, side }) => valueOf(m, first + position, d, side)),
    ]);
    return { columns, rows };
  };
  return { figure, sheet };
}
