/** The ways of tokens through the stream, in the axes that all of them share. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { coloursOf } from "../colours.ts";
import { column, type Data, rawText, span, stateName, type Trajectory, type Ways } from "../data.ts";
import type { Saved } from "../export.tsx";
import { type Cell, percent } from "../format.ts";
import { calm, useFrame, useWidth } from "../hooks.ts";
import { Missing, NoControl, Panel, Segments } from "../parts/Controls.tsx";
import { Picture } from "../parts/Picture.tsx";
import { START, type Turn, turned } from "../space.ts";
import { useStore } from "../store.ts";
import { BEHIND, columnRange, comeTo, type Drawing, placed, pointOf } from "../ways.ts";

const STEP_MS = 420;

/** Plays the layers: a step at a time, gliding between two unless the reader asks for less motion. */
function usePlay(last: number, range: [number, number]) {
  const store = useStore();
  const [playing, setPlaying] = useState(false);
  const [part, setPart] = useState<number | null>(null);
  useEffect(() => {
    if (!playing) return;
    const state = store.selection.peek().state;
    const from = state >= range[1] || state < range[0] ? range[0] : state;
    const begun = performance.now();
    let frame = 0;
    const tick = () => {
      const now = Math.min(range[1], from + (performance.now() - begun) / STEP_MS);
      const whole = Math.floor(now);
      if (whole !== store.selection.peek().state) store.select({ state: whole }, true);
      setPart(calm() ? null : now);
      if (now < range[1]) frame = requestAnimationFrame(tick);
      else setPlaying(false);
    };
    tick();
    return () => {
      cancelAnimationFrame(frame);
      setPart(null);
    };
  }, [playing, store, last, range]);
  return {
    playing,
    part,
    toggle: () => {
      setPlaying(!playing);
    },
  };
}

function useTurn() {
  const [turn, setTurn] = useState<Turn>(START);
  const grip = useRef<{ x: number; y: number; turn: Turn } | null>(null);
  const move = useFrame<Turn>(setTurn);
  return {
    turn,
    reset: () => {
      setTurn(START);
    },
    handlers: {
      onPointerDown: (e: PointerEvent) => {
        (e.currentTarget as Element).setPointerCapture(e.pointerId);
        grip.current = { x: e.clientX, y: e.clientY, turn };
      },
      onPointerMove: (e: PointerEvent) => {
        const from = grip.current;
        if (from) move(turned(from.turn, (e.clientX - from.x) / 160, (e.clientY - from.y) / 160));
      },
      onPointerUp: () => {
        grip.current = null;
      },
      onPointerCancel: () => {
        grip.current = null;
      },
      onKeyDown: (e: KeyboardEvent) => {
        const by = {
          ArrowLeft: [-0.15, 0],
          ArrowRight: [0.15, 0],
          ArrowUp: [0, -0.15],
          ArrowDown: [0, 0.15],
        }[e.key];
        if (!by) return;
        e.preventDefault();
        e.stopPropagation();
        setTurn(turned(turn, by[0] ?? 0, by[1] ?? 0));
      },
    },
  };
}

function savedOf(
  base: Omit<Drawing, "colours" | "width" | "height" | "ways">,
  sides: { ways: Ways; title: string }[],
  prompt: number,
): Saved {
  const { data, trajectory, tokens, first, range } = base;
  const figure = () => ({
    width: 860,
    height: 480 * sides.length,
    content: (
      <g>
        {sides.map(({ ways, title }, i) => (
          <g key={i} transform={`translate(0 ${480 * i})`}>
            <Picture
              {...base}
              at={range[1]}
              ways={ways}
              title={title}
              colours={coloursOf("light")}
              width={860}
              height={470}
            />
          </g>
        ))}
      </g>
    ),
  });
  const states = trajectory.states.length;
  const every = Array.from({ length: base.length }, (_, i) => first + i);
  const sheet = () => ({
    columns: ["prompt", "position", "token", "chosen", "of", "state", "pc1", "pc2", "pc3"],
    rows: sides.flatMap(({ ways, title }) =>
      every.flatMap((token) =>
        trajectory.states.flatMap((state, s): Cell[][] =>
          s < range[0] || s > range[1]
            ? []
            : [
                [
                  data.ids[prompt] ?? 0,
                  token - first,
                  JSON.stringify(rawText(data, token)),
                  tokens.includes(token) ? 1 : 0,
                  title || "model",
                  state,
                  ...pointOf(ways, states, token, s),
                ],
              ],
        ),
      ),
    ),
  });
  const shares = trajectory.explained
    .slice(0, base.solid ? 3 : 2)
    .map((v, i) => `${trajectory.axes[i] ?? ""} ${percent(v)}`)
    .join(", ");
  return {
    name: [data.title, "trajectory", `prompt ${data.ids[prompt] ?? 0}`],
    title: `Trajectories, prompt ${data.ids[prompt] ?? 0} (${shares})`,
    provenance: data.provenance,
    figure,
    sheet,
  };
}

/** The model's ways, and the control's beside them where it is on. */
function sidesOf(data: Data, trajectory: Trajectory, control: boolean): { ways: Ways; title: string }[] {
  if (!control || !trajectory.control) return [{ ways: trajectory, title: "" }];
  return [
    { ways: trajectory, title: "model" },
    { ways: trajectory.control, title: data.controlName },
  ];
}

function hintOf(trajectory: Trajectory, solid: boolean, state: number, others: number): string {
  const total = trajectory.explained.slice(0, solid ? 3 : 2).reduce((a, b) => a + b, 0);
  return [
    `The ways of the chosen tokens from state to state (ring: first state; large dot: ${stateName(state)}); the prompt's other tokens in grey.`,
    "All prompts share these axes.",
    !Number.isNaN(total) && `The ${solid ? "three" : "two"} shown hold ${percent(total)} of the variance.`,
    others > BEHIND && `${BEHIND} of the ${others} other tokens are drawn.`,
  ]
    .filter(Boolean)
    .join(" ");
}

interface ButtonsProps {
  three: boolean;
  solid: boolean;
  playing: boolean;
  onPlay: () => void;
  onReset: () => void;
}

function Buttons({ three, solid, playing, onPlay, onReset }: ButtonsProps) {
  const store = useStore();
  const options = [
    { value: "2", text: "2-D" },
    { value: "3", text: "3-D" },
  ];
  return (
    <>
      {three && (
        <Segments
          label="Dimensions"
          value={solid ? "3" : "2"}
          options={options}
          onChoose={(value) => {
            store.select({ solid: value === "3" });
          }}
        />
      )}
      <button type="button" class="ix-small" onClick={onPlay} aria-pressed={playing}>
        {playing ? "Pause" : "Play layers"}
      </button>
      {solid && (
        <button type="button" class="ix-small" onClick={onReset}>
          Turn back
        </button>
      )}
      {solid && (
        <span class="ix-legend-note">Drag to turn; with the focus on the figure, arrow keys turn it.</span>
      )}
    </>
  );
}

function Inside({ trajectory }: { trajectory: Trajectory }) {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const { prompt, tokens: positions, state, range: states, control, solid: wanted } = store.selection.value;
  const three = trajectory.axes.length > 2;
  const solid = wanted && three;
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const { first, length } = span(data, prompt);
  const tokens = useMemo(() => positions.map((p) => first + p), [positions, first]);
  const { playing, part, toggle } = usePlay(data.lastState, states);
  const { turn, reset, handlers } = useTurn();
  const range = columnRange(trajectory, states);
  const sides = sidesOf(data, trajectory, control);
  const base = {
    data,
    trajectory,
    tokens,
    first,
    length,
    range,
    at: comeTo(trajectory, state, part, range[0]),
    solid,
    turn,
  };
  const known = tokens.some((token) =>
    placed(pointOf(trajectory, trajectory.states.length, token, column(trajectory, state)), solid),
  );
  const across = sides.length > 1 && width > 700 ? Math.floor((width - 16) / 2) : width;
  const height = Math.round(Math.max(300, Math.min(460, across * 0.62)));
  return (
    <Panel
      view="trajectory"
      title="Trajectory"
      saved={savedOf(base, sides, prompt)}
      hint={hintOf(trajectory, solid, state, length - tokens.length)}
      controls={<Buttons three={three} solid={solid} playing={playing} onPlay={toggle} onReset={reset} />}
    >
      {control && sides.length < 2 && <NoControl what="trajectories" />}
      {!known && (
        <p class="ix-note" role="note">
          The ways of the chosen tokens were not kept. {data.more["trajectory"]}
        </p>
      )}
      <div ref={box} class="ix-row">
        {sides.map(({ ways, title }, i) => (
          <svg
            key={i}
            class={solid ? "ix-figure ix-turn" : "ix-figure"}
            width={across}
            height={height}
            viewBox={`0 0 ${across} ${height}`}
            role="img"
            aria-label={`Trajectories of the chosen tokens${title && `, ${title}`}; the CSV holds the coordinates`}
            {...(solid ? { tabIndex: 0, ...handlers } : {})}
          >
            <Picture {...base} ways={ways} title={title} colours={colours} width={across} height={height} />
          </svg>
        ))}
      </div>
    </Panel>
  );
}

export function TrajectoryView() {
  const { trajectory, missing } = useStore().data.value;
  if (trajectory) return <Inside trajectory={trajectory} />;
  return (
    <Panel view="trajectory" title="Trajectory">
      <Missing what="This file holds no trajectories." command={missing["trajectory"]} />
    </Panel>
  );
}
