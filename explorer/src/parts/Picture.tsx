/** Trajectories: a pure figure in two or three dimensions. */

import { scaleLinear } from "d3-scale";
import { STROKES } from "../colours.ts";
import { exact, number, percent, short } from "../format.ts";
import { type Point, project } from "../space.ts";
import { thin } from "../summary.ts";
import { tokenNames } from "../charts.ts";
import { apart, BEHIND, CHOSEN, type Drawing, type Frame, frameOf, pointOf, triple, wayOf } from "../ways.ts";

/** The edges of the box around all points: without it the turning could not be seen. */
function Box({ d, frame }: { d: Drawing; frame: Frame }) {
  const corner = (bits: number) =>
    triple((axis) => frame.middle[axis] + frame.sizes[axis] * ((bits >> axis) & 1 ? 0.5 : -0.5));
  const edges = [0, 1, 2].flatMap((axis) =>
    Array.from({ length: 8 }, (_, bits) => bits)
      .filter((bits) => !((bits >> axis) & 1))
      .map((bits) => [bits, bits | (1 << axis)] as const),
  );
  const path = edges.map(([a, b]) => {
    const [from, to] = [frame.spot(corner(a)), frame.spot(corner(b))];
    return from && to
      ? `M${from.x.toFixed(1)} ${from.y.toFixed(1)}L${to.x.toFixed(1)} ${to.y.toFixed(1)}`
      : "";
  });
  return <path d={path.join("")} fill="none" stroke={d.colours.grid} />;
}

function Axes({ d, frame }: { d: Drawing; frame: Frame }) {
  const { colours, ways, trajectory } = d;
  const share = (i: number) => {
    const known = ways.explained[i] ?? NaN;
    return `${trajectory.axes[i] ?? ""}${Number.isNaN(known) ? "" : `, ${percent(known)}`}`;
  };
  const what = (i: number) =>
    `${share(i)}${Number.isNaN(ways.explained[i] ?? NaN) ? "" : " of the variance"}`;
  if (d.solid) {
    // Three short arrows from a corner: where the axes point after turning.
    const arms: Point[] = [
      [1, 0, 0],
      [0, 1, 0],
      [0, 0, 1],
    ];
    return (
      <>
        <Box d={d} frame={frame} />
        <g transform={`translate(92 ${d.height - 56})`} font-size={11} fill={colours.muted}>
          {arms.map((arm, i) => {
            const [x, y] = project(arm, d.turn);
            return (
              <g key={i}>
                <line x2={x * 34} y2={-y * 34} stroke={colours.muted} stroke-width={1.5} />
                <text
                  x={x * 42}
                  y={-y * 42}
                  dy="0.32em"
                  text-anchor={x < -0.2 ? "end" : x > 0.2 ? "start" : "middle"}
                >
                  {share(i)}
                </text>
              </g>
            );
          })}
        </g>
      </>
    );
  }
  const [left, right, bottom] = [56, d.width - 8, d.height - 34];
  const ends = (axis: 0 | 1, pixels: number) => frame.middle[axis] + pixels / frame.unit;
  const x = scaleLinear()
    .domain([ends(0, left - (d.width + 30) / 2), ends(0, right - (d.width + 30) / 2)])
    .range([left, right]);
  const y = scaleLinear()
    .domain([ends(1, (d.height - 24) / 2 - bottom), ends(1, (d.height - 24) / 2 - 20)])
    .range([bottom, 20]);
  return (
    <g font-size={11} fill={colours.muted}>
      {x.ticks(Math.max(3, d.width / 110)).map((tick) => (
        <g key={`x${tick}`}>
          <line x1={x(tick)} x2={x(tick)} y1={20} y2={bottom} stroke={colours.grid} />
          <text x={x(tick)} y={bottom + 14} text-anchor="middle">
            {number(tick, 3)}
          </text>
        </g>
      ))}
      {y.ticks(6).map((tick) => (
        <g key={`y${tick}`}>
          <line x1={left} x2={right} y1={y(tick)} y2={y(tick)} stroke={colours.grid} />
          <text x={left - 5} y={y(tick)} dy="0.32em" text-anchor="end">
            {number(tick, 3)}
          </text>
        </g>
      ))}
      <text x={d.width / 2} y={d.height - 4} text-anchor="middle" font-size={12}>
        {what(0)}
      </text>
      <text transform={`translate(11 ${d.height / 2}) rotate(-90)`} text-anchor="middle" font-size={12}>
        {what(1)}
      </text>
    </g>
  );
}

export function Picture(d: Drawing) {
  const every = Array.from({ length: d.length }, (_, i) => d.first + i).filter(
    (token) => !d.data.special?.[token] || d.tokens.includes(token),
  );
  const behind = thin(
    every.filter((token) => !d.tokens.includes(token)),
    BEHIND,
  );
  const chosen = d.tokens.slice(0, CHOSEN);
  const all = [...behind, ...chosen];
  const frame = frameOf(d, all);
  const { spot } = frame;
  const names = tokenNames(d.data, chosen, d.first);
  const states = d.trajectory.states.length;
  const labels = apart(chosen.map((token) => wayOf(d, token, spot).head));
  return (
    <g>
      <Axes d={d} frame={frame} />
      {d.title && (
        <text
          x={d.width / 2}
          y={14}
          text-anchor="middle"
          font-size={13}
          font-weight={600}
          fill={d.colours.ink}
        >
          {d.title}
        </text>
      )}
      {behind.map((token) => (
        <path
          key={token}
          d={wayOf(d, token, spot).path}
          fill="none"
          stroke={d.colours.control}
          stroke-width={1}
          opacity={0.35}
        />
      ))}
      {chosen.map((token, i) => {
        const { path, spots, head } = wayOf(d, token, spot);
        const colour = d.colours.tokens[i] ?? d.colours.ink;
        return (
          <g key={token} fill={colour}>
            <path
              d={wayOf(d, token, spot, d.range[1]).path}
              fill="none"
              stroke={colour}
              stroke-width={1.25}
              opacity={0.4}
            />
            <path
              d={path}
              fill="none"
              stroke={colour}
              stroke-width={2.25}
              stroke-linejoin="round"
              stroke-dasharray={STROKES[i] || undefined}
            />
            {spots.map(({ s, spot: { x, y } }) => {
              const [px, py, pz] = pointOf(d.ways, states, token, s);
              return (
                <circle
                  key={s}
                  cx={x}
                  cy={y}
                  r={s === d.range[0] ? 4.5 : 2.75}
                  fill={s === d.range[0] ? d.colours.paper : colour}
                  stroke={colour}
                  stroke-width={1.5}
                  data-trajectory-token={token}
                  data-state={d.trajectory.states[s]}
                  data-x={exact(px)}
                  data-y={exact(py)}
                  data-z={exact(pz)}
                  data-control={d.ways === d.trajectory ? undefined : "true"}
                />
              );
            })}
            {head && <circle cx={head.x} cy={head.y} r={6} stroke={d.colours.paper} stroke-width={1.5} />}
            {head && (
              <text
                x={head.x + (head.x > d.width - 100 ? -10 : 10)}
                y={labels[i] ?? head.y}
                dy="0.32em"
                font-size={12.5}
                font-weight={600}
                text-anchor={head.x > d.width - 100 ? "end" : "start"}
                stroke={d.colours.paper}
                stroke-width={3}
                paint-order="stroke"
              >
                {short(names[i] ?? "", 14)}
              </text>
            )}
          </g>
        );
      })}
    </g>
  );
}
