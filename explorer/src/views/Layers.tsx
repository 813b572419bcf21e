/** Every measure of the chosen tokens over depth, over the group's band and the control's. */

import { useMemo, useRef } from "preact/hooks";
import { chartOf, LINES } from "../charts.ts";
import { coloursOf } from "../colours.ts";
import { type Data, family, type Measure, measureOf, rawText, span, valueOf } from "../data.ts";
import type { Saved } from "../export.tsx";
import { type Cell, short } from "../format.ts";
import { groupName, groupOptions, parseGroup } from "../groups.ts";
import { useWidth } from "../hooks.ts";
import { Choose, NoControl, Panel, Subtitle } from "../parts/Controls.tsx";
import { Extremes, Main, NumbersTable, Small } from "../parts/DepthCharts.tsx";
import { LineChart } from "../parts/LineChart.tsx";
import type { Selection } from "../selection.ts";
import { useStore } from "../store.ts";
import { bandOf, membersOf } from "../summary.ts";

const SMALL = { width: 236, height: 118 };
const TALL = 320;

/** A sentence with its full stop. */
const ended = (text: string) => (/[.!?]$/.test(text) ? text : `${text}.`);

function savedOf(data: Data, measure: Measure, selection: Selection, tokens: number[], first: number): Saved {
  const { group, control } = selection;
  const base = { data, selection, tokens, first, colours: coloursOf("light") };
  const others = data.measures.filter((m) => m.name !== measure.name && m.axis !== "none");
  const [perRow, gap] = [3, 16];
  const figure = () => {
    const main = chartOf({ ...base, measure, width: 860, height: TALL, small: false });
    const size = { width: (860 - (perRow - 1) * gap) / perRow, height: 130 };
    const content = (
      <g>
        <LineChart {...main} />
        {others.map((m, i) => (
          <g
            key={m.name}
            transform={`translate(${(i % perRow) * (size.width + gap)} ${TALL + 26 + Math.floor(i / perRow) * (size.height + 28)})`}
          >
            <text y={-2} font-size={11} font-weight={600} fill={base.colours.ink}>
              {short(m.title, 40)}
            </text>
            <LineChart {...chartOf({ ...base, measure: m, ...size, small: true })} />
          </g>
        ))}
      </g>
    );
    return {
      content,
      width: 860,
      height: TALL + 26 + Math.ceil(others.length / perRow) * (size.height + 28),
    };
  };
  const sheet = () => {
    const columns = [
      "prompt",
      "position",
      "token",
      "measure",
      "unit",
      "depth",
      "value",
      "control",
      "group_mean",
      "group_p10",
      "group_p90",
    ];
    const rows = data.measures.flatMap((m) => {
      const band = bandOf(data, m, group);
      return tokens.flatMap((token) =>
        m.depth.map((d, i): Cell[] => [
          data.ids[selection.prompt] ?? 0,
          token - first,
          JSON.stringify(rawText(data, token)),
          m.name,
          m.unit,
          d,
          valueOf(m, token, i),
          control ? valueOf(m, token, i, true) : null,
          band?.mean[i] ?? NaN,
          band?.low[i] ?? NaN,
          band?.high[i] ?? NaN,
        ]),
      );
    });
    return { columns, rows };
  };
  return {
    name: [data.title, "layers", `prompt ${data.ids[selection.prompt] ?? 0}`],
    title: `${measure.title}; band: ${groupName(group)}${control && measure.control ? `; grey: ${data.controlName}` : ""}`,
    provenance: data.provenance,
    figure,
    sheet,
  };
}

function Controls({ measure, drawn }: { measure: Measure; drawn: number }) {
  const store = useStore();
  const data = store.data.value;
  const { group, range, control } = store.selection.value;
  const narrowed = range[0] > 0 || range[1] < data.lastState;
  const value = group ? `${group.label}\u001f${group.value}` : "";
  return (
    <>
      <Choose
        label="Band"
        value={value}
        options={groupOptions(data)}
        onChoose={(to) => {
          store.select({ group: parseGroup(to) });
        }}
      />
      {narrowed && (
        <button
          type="button"
          class="ix-small"
          onClick={() => {
            store.select({ range: [0, data.lastState] });
          }}
        >
          Whole depth
        </button>
      )}
      {control && (measure.control ?? measure.controlBand) && (
        <span class="ix-legend-note">
          <i class="ix-dash" /> grey: {short(measure.controlName, 30)}
          {measure.controlBand?.of && `, ${measure.controlBand.of}`}
        </span>
      )}
      {drawn > LINES && (
        <span class="ix-legend-note">
          {LINES} of {drawn} chosen tokens are drawn; all are in the table.
        </span>
      )}
    </>
  );
}

export function LayersView() {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const selection = store.selection.value;
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const { first } = span(data, selection.prompt);
  const tokens = useMemo(
    () => selection.tokens.map((position) => first + position),
    [selection.tokens, first],
  );
  const measure = measureOf(data, selection.measure);
  const base = { data, selection, tokens, first, colours };
  const others = useMemo(
    () => data.measures.map((m) => ({ m, chart: chartOf({ ...base, measure: m, ...SMALL, small: true }) })),
    [
      data,
      selection.tokens,
      selection.prompt,
      selection.group,
      selection.control,
      selection.state,
      selection.range,
      colours,
    ],
  );
  if (!measure)
    return (
      <Panel view="layers" title="Layers">
        <p class="ix-note">This file holds no measure of tokens.</p>
      </Panel>
    );
  const chart = chartOf({ ...base, measure, width, height: TALL, small: false });
  const count = membersOf(data, selection.group).length;
  const of = selection.group ? `${count} tokens with ${groupName(selection.group)}` : "all ordinary tokens";
  const bandName = (!selection.group && measure.band?.of) || `mean and the middle 80 % of ${of}`;
  return (
    <Panel
      view="layers"
      title={measure.title}
      saved={savedOf(data, measure, selection, tokens, first)}
      hint={
        <>
          {measure.doc && `${ended(measure.doc)} `}Lines are the chosen tokens; the band is the {bandName}.
          Click for a layer, drag for a range.
        </>
      }
      controls={<Controls measure={measure} drawn={tokens.length} />}
    >
      {selection.control && !measure.control && !measure.controlBand && (
        <NoControl what={`values of ${measure.title}`} />
      )}
      <div ref={box}>
        {measure.axis === "none" ? (
          <p class="ix-note">One value per token; see the table.</p>
        ) : (
          <Main chart={chart} measure={measure} />
        )}
      </div>
      {measure.axis !== "none" && <Extremes chart={chart} measure={measure} />}
      <NumbersTable data={data} measure={measure} tokens={tokens} first={first} control={selection.control} />
      {[...new Set(others.map(({ m }) => family(m)))].map((name) => (
        <div key={name} class="ix-family" role="group" aria-label={name || "All measures"}>
          {name && <Subtitle>{name}</Subtitle>}
          <div class="ix-smalls">
            {others
              .filter(({ m }) => family(m) === name)
              .map(({ m, chart: small }) => (
                <Small
                  key={m.name}
                  chart={small}
                  measure={m}
                  chosen={m.name === measure.name}
                  onChoose={() => {
                    store.select({ measure: m.name });
                  }}
                />
              ))}
          </div>
        </div>
      ))}
    </Panel>
  );
}
