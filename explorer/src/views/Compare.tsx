/** Two prompts, tokens or groups side by side: aligned, with their difference and its test. */

import { useMemo, useRef, useState } from "preact/hooks";
import { align } from "../align.ts";
import { coloursOf } from "../colours.ts";
import { type Compared, compared, groupsOf, said, type Side, sidesOf, testsOf } from "../comparison.ts";
import { type Data, type Group, type Measure, measureOf, sentence, span, text } from "../data.ts";
import type { Saved } from "../export.tsx";
import { type Cell, short, visible } from "../format.ts";
import { useWidth } from "../hooks.ts";
import { chartsOf, ChartWithReadings, NumbersTable } from "../parts/ComparedCharts.tsx";
import { Choose, NoControl, Panel, Segments, Subtitle } from "../parts/Controls.tsx";
import { LineChart } from "../parts/LineChart.tsx";
import { Pairs } from "../parts/Pairs.tsx";
import { firstOrdinary, type Mode, type Selection } from "../selection.ts";
import { useStore } from "../store.ts";
import type { Estimate } from "../summary.ts";
import { groupOptions, parseGroup } from "../groups.ts";
import { useTextScale } from "./Text.tsx";

/** Chooses the other prompt by number or by words, however many there are. */
function OtherPrompt() {
  const store = useStore();
  const data = store.data.value;
  const { otherPrompt } = store.selection.value;
  const [typed, setTyped] = useState<string | null>(null);
  const near = useMemo(() => {
    const words = (typed ?? "").toLowerCase().replace(/^#/, "");
    const out: number[] = [];
    for (let p = 0; p < data.ids.length && out.length < 30; p++) {
      if (String(data.ids[p]) === words || sentence(data, p).toLowerCase().includes(words)) out.push(p);
    }
    return out;
  }, [data, typed]);
  const name = (p: number) =>
    `#${data.ids[p] ?? 0} ${short(visible(sentence(data, p).replace(/\s+/g, " ")), 60)}`;
  const take = (value: string) => {
    setTyped(value);
    const typedId = value.replace(/^#/, "");
    const named = near.find((p) => name(p) === value);
    const p = named ?? data.ids.map(String).indexOf(typedId);
    if (p >= 0) store.select({ otherPrompt: p, otherToken: firstOrdinary(data, p) });
  };
  const first = () => {
    if (typed === null) return;
    const p = near[0];
    if (p === undefined) return;
    setTyped(null);
    store.select({ otherPrompt: p, otherToken: firstOrdinary(data, p) });
  };
  const step = (by: number) => {
    const p = Math.max(0, Math.min(data.ids.length - 1, otherPrompt + by));
    setTyped(null);
    store.select({ otherPrompt: p, otherToken: firstOrdinary(data, p) });
  };
  return (
    <div class="ix-other" role="group" aria-label="Prompt B">
      <button
        type="button"
        class="ix-small"
        aria-label="Prompt B: the one before"
        onClick={() => {
          step(-1);
        }}
      >
        ‹
      </button>
      <label class="ix-choose">
        <span>B</span>
        <input
          type="text"
          list={store.id("prompts")}
          value={typed ?? name(otherPrompt)}
          data-other
          onFocus={(e) => {
            e.currentTarget.select();
          }}
          onInput={(e) => {
            take(e.currentTarget.value);
          }}
          onKeyDown={(e) => {
            if (e.key === "Enter") first();
          }}
          onBlur={() => {
            setTyped(null);
          }}
        />
      </label>
      <span class="ix-legend-note" role="status">
        {typed !== null && !near.length ? "No prompt has this text." : ""}
      </span>
      <button
        type="button"
        class="ix-small"
        aria-label="Prompt B: the next one"
        onClick={() => {
          step(1);
        }}
      >
        ›
      </button>
      <datalist id={store.id("prompts")}>
        {near.map((p) => (
          <option key={p} value={name(p)} />
        ))}
      </datalist>
    </div>
  );
}

function savedOf(
  data: Data,
  c: Compared,
  selection: Selection,
  sides: [Side, Side],
  sentences: string[],
): Saved {
  const figure = () => {
    const look = coloursOf("light");
    const [both, difference] = chartsOf(data, c, selection, look, 860);
    const content = (
      <g>
        <text y={12} font-size={12} fill={look.tokens[0]}>
          A: {sides[0].name}
        </text>
        <text y={28} font-size={12} fill={look.tokens[1]}>
          B: {sides[1].name}
        </text>
        <g transform="translate(0 38)">
          <LineChart {...both} />
        </g>
        <g transform={`translate(0 ${both.height + 46})`}>
          <LineChart {...difference} />
        </g>
        {sentences.map((line, i) => (
          <text key={i} y={both.height + difference.height + 66 + 16 * i} font-size={11.5} fill={look.ink}>
            {short(line, 140)}
          </text>
        ))}
      </g>
    );
    return { content, width: 860, height: both.height + difference.height + 60 + 16 * sentences.length };
  };
  const sheet = () => {
    const rows: Cell[][] = [];
    const put = (of: string, e: { a: Estimate[]; b: Estimate[]; difference: Estimate[] }) => {
      for (const side of ["a", "b", "difference"] as const) {
        const name =
          side === "a" ? sides[0].name : side === "b" ? sides[1].name : `${sides[0].name} − ${sides[1].name}`;
        e[side].forEach((x, d) =>
          rows.push([
            c.measure.name,
            of,
            side,
            name,
            c.measure.depth[d] ?? "",
            x.mean,
            x.low,
            x.high,
            x.prompts,
          ]),
        );
      }
    };
    put("model", c);
    if (c.control) put(data.controlName, c.control);
    return {
      columns: ["measure", "of", "side", "name", "depth", "mean", "low_95", "high_95", "prompts"],
      rows,
    };
  };
  return {
    name: [data.title, "compare", selection.mode, c.measure.name],
    title: `${c.measure.title}: A and B${c.control ? `; grey: ${data.controlName}` : ""}`,
    provenance: data.provenance,
    figure,
    sheet,
  };
}

/** What the run's own tests say; they compare groups, so elsewhere they wait to be opened. */
function Tests({
  data,
  measure,
  lines,
  open,
}: {
  data: Data;
  measure: Measure;
  lines: string[];
  open: boolean;
}) {
  if (!lines.length) return null;
  const of = data.tests.find((t) => t.measure === measure.name && t.a && t.b);
  const name = `Tests of the run on ${measure.title}${of ? `: ${of.a ?? ""} against ${of.b ?? ""}` : ""}`;
  const list = (
    <ul>
      {lines.map((line, i) => (
        <li key={i}>{line}</li>
      ))}
    </ul>
  );
  return (
    <div class="ix-tests">
      {open ? (
        <>
          <Subtitle>{name}</Subtitle>
          {list}
        </>
      ) : (
        <details class="ix-numbers">
          <summary>{name}</summary>
          {list}
        </details>
      )}
    </div>
  );
}

function Chooser({ data, selection }: { data: Data; selection: Selection }) {
  const store = useStore();
  if (selection.mode !== "groups") {
    return (
      <>
        <OtherPrompt />
        {selection.mode === "tokens" &&
          (() => {
            const { first, length } = span(data, selection.otherPrompt);
            return (
              <Choose
                label="token of B"
                value={String(selection.otherToken)}
                options={Array.from({ length: Math.min(length, 500) }, (_, i) => ({
                  value: String(i),
                  text: `${i} ${short(text(data, first + i), 24)}`,
                }))}
                onChoose={(v) => {
                  store.select({ otherToken: Number(v) });
                }}
              />
            );
          })()}
      </>
    );
  }
  const [a, b] = groupsOf(data, selection);
  const value = (g: Group | null) => (g ? `${g.label}\u001f${g.value}` : "");
  const options = groupOptions(data).slice(1);
  if (!options.length) return <span class="ix-legend-note">These prompts have no labels to compare.</span>;
  return (
    <>
      <Choose
        label="A"
        value={value(a)}
        options={options}
        onChoose={(v) => {
          store.select({ group: parseGroup(v) });
        }}
      />
      <Choose
        label="B"
        value={value(b)}
        options={options}
        onChoose={(v) => {
          store.select({ otherGroup: parseGroup(v) });
        }}
      />
    </>
  );
}

function sentencesOf(data: Data, c: Compared, selection: Selection): string[] {
  if (selection.mode !== "groups") return said(data, c, selection.state);
  const [a, b] = groupsOf(data, selection);
  return said(data, c, selection.state, [a?.value ?? "", b?.value ?? ""]);
}

export function CompareView() {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const selection = store.selection.value;
  const measure = measureOf(data, selection.measure);
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const row = useTextScale();
  const { mode, prompt, otherPrompt, otherToken, tokens, group, otherGroup, control } = selection;
  const sides = useMemo(
    () => sidesOf(data, selection),
    [data, mode, prompt, otherPrompt, otherToken, tokens, group, otherGroup],
  );
  const c = useMemo(
    () => (measure ? compared(data, measure, sides, control) : null),
    [data, measure, sides, control],
  );
  const [a, b] = [span(data, prompt), span(data, otherPrompt)];
  const pairs = useMemo(
    () =>
      mode === "prompts"
        ? align(
            data.index.subarray(a.first, a.first + a.length),
            data.index.subarray(b.first, b.first + b.length),
          )
        : [],
    [data, mode, a.first, b.first],
  );
  if (!measure || !c)
    return (
      <Panel view="compare" title="Compare">
        <p class="ix-note">This file holds no measure of tokens.</p>
      </Panel>
    );
  const [both, difference] = chartsOf(data, c, selection, colours, width);
  const [ga, gb] = groupsOf(data, selection);
  const tests = testsOf(data, measure, ga?.value ?? "", gb?.value ?? "");
  const sentences = sentencesOf(data, c, selection);
  const how = {
    prompts: "The mean of each prompt's ordinary tokens.",
    tokens: "The last chosen token is A.",
    groups: "Means of prompts with 95 % intervals (the prompt is the unit).",
  }[mode];
  return (
    <Panel
      view="compare"
      title={`Compare: ${measure.title}`}
      saved={savedOf(data, c, selection, sides, [...sentences, ...tests.slice(0, 3)])}
      hint={`${how} Special tokens are left out.`}
      controls={
        <>
          <Segments<Mode>
            label="Compare"
            value={mode}
            options={[
              { value: "prompts", text: "Prompts" },
              { value: "tokens", text: "Tokens" },
              { value: "groups", text: "Groups" },
            ]}
            onChoose={(value) => {
              store.select({ mode: value });
            }}
          />
          <Chooser data={data} selection={selection} />
        </>
      }
    >
      {control && !measure.control && <NoControl what={`values of ${measure.title}`} />}
      <p class="ix-sides">
        {sides.map(({ name, tokens: of }, i) => (
          <span key={i}>
            <b style={{ color: colours.tokens[i] }}>{i ? "B" : "A"}</b>
            <bdi>{name}</bdi>
            <small>
              {of.length} {of.length === 1 ? "token" : "tokens"}
            </small>
          </span>
        ))}
      </p>
      {sentences.map((line, i) => (
        <p key={i} class={i ? "ix-sentence" : "ix-sentence ix-first"}>
          {line}
        </p>
      ))}
      {mode === "prompts" && row && (
        <Pairs
          data={data}
          pairs={pairs}
          firsts={[a.first, b.first]}
          measure={measure}
          depth={row.depth}
          paint={row.colours}
          colours={colours}
          chosen={tokens}
        />
      )}
      <div ref={box}>
        {measure.axis !== "none" && (
          <>
            <ChartWithReadings
              chart={both}
              c={c}
              which="both"
              label={`${measure.title} of A and B; the numbers stand in the table below`}
            />
            <ChartWithReadings
              chart={difference}
              c={c}
              which="difference"
              label="Difference of A and B; the numbers stand in the table below"
            />
          </>
        )}
      </div>
      <NumbersTable c={c} />
      <Tests data={data} measure={measure} lines={tests} open={mode === "groups"} />
    </Panel>
  );
}
