/** Heads by a statistic, the chosen head's map, its arcs over the text, and the rollout. */

import { headExtent, keptOf, statisticOf } from "../attention.ts";
import { useRef } from "preact/hooks";
import { type Scale, scale } from "../colours.ts";
import type { Attention, Statistic } from "../data.ts";
import { useWidth } from "../hooks.ts";
import { ArcsPanel, Maps } from "../parts/AttentionMap.tsx";
import { Choose, Missing, NoControl, Panel, Segments } from "../parts/Controls.tsx";
import { Grid, gridHeight, HeadCard, Strongest } from "../parts/Heads.tsx";
import { Legend } from "../parts/Legend.tsx";
import type { Id } from "../payload.ts";
import { useStore } from "../store.ts";
import { savedOf } from "./AttentionSaved.tsx";

/** The usual width of the grid, and the height from which on a map is no taller than it. */
const GRID = 420;
const FLAT = 320;

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
  // The card of the head fills what is left beside the taller of the grid and the map.
  const flat = gridHeight(attention, GRID) < FLAT;
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
            {flat && <HeadCard attention={attention} statistic={statistic} />}
          </div>
        )}
        <div ref={box} class="ix-maps">
          {kept ? <Maps kept={kept} width={width} /> : <NoMap attention={attention} id={id} />}
          {statistic && !flat && <HeadCard attention={attention} statistic={statistic} />}
        </div>
      </div>
      {kept && <ArcsPanel kept={kept} title={kept.name} />}
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
