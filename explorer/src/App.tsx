/** The whole explorer: the bar with the selection, the prompts, the tokens, and one view of five. */

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { brief, column, family, hasControl, measureOf, stateName } from "./data.ts";
import { number, short } from "./format.ts";
import { useArrival, useHeight } from "./hooks.ts";
import { Help } from "./parts/Help.tsx";
import { Choose } from "./parts/Controls.tsx";
import { Live, Story } from "./parts/Live.tsx";
import { PromptList } from "./parts/PromptList.tsx";
import { Tip } from "./parts/Tip.tsx";
import { type View, VIEWS } from "./selection.ts";
import { type Store, StoreContext, useStore } from "./store.ts";
import { AttentionView } from "./views/Attention.tsx";
import { CompareView } from "./views/Compare.tsx";
import { LayersView } from "./views/Layers.tsx";
import { LensView } from "./views/Lens.tsx";
import { TextView } from "./views/Text.tsx";
import { TrajectoryView } from "./views/Trajectory.tsx";

const SHOWN: Record<View, { name: string; view: () => JSX.Element }> = {
  layers: { name: "Layers", view: LayersView },
  lens: { name: "Lens", view: LensView },
  trajectory: { name: "Trajectory", view: TrajectoryView },
  attention: { name: "Attention", view: AttentionView },
  compare: { name: "Compare", view: CompareView },
};

function Depth() {
  const store = useStore();
  const { state, range } = store.selection.value;
  const { lastState } = store.data.value;
  const shown = range[0] > 0 || range[1] < lastState ? ` · states ${range[0]} to ${range[1]}` : "";
  return (
    <div class="ix-depth">
      <button
        type="button"
        class="ix-small"
        aria-label="One layer toward the input"
        onClick={() => {
          store.moveState(-1);
        }}
      >
        ‹
      </button>
      <label>
        <span class="ix-depth-name">
          {stateName(state)}
          <span class="ix-unit">
            {" "}
            of {lastState}
            {shown}
          </span>
        </span>
        <input
          type="range"
          min={0}
          max={lastState}
          step={1}
          value={state}
          aria-label="Layer"
          aria-valuetext={stateName(state)}
          data-depth-slider
          onInput={(e) => {
            store.select({ state: Number(e.currentTarget.value) }, true);
          }}
        />
      </label>
      <button
        type="button"
        class="ix-small"
        aria-label="One layer toward the output"
        onClick={() => {
          store.moveState(1);
        }}
      >
        ›
      </button>
    </div>
  );
}

function MeasureChoice() {
  const store = useStore();
  const data = store.data.value;
  const options = data.measures.map((m) => ({
    value: m.name,
    text: brief(m),
    heading: family(m) || undefined,
  }));
  return (
    <Choose
      label="Colour"
      value={store.selection.value.measure}
      options={options}
      onChoose={(measure) => {
        store.select({ measure });
      }}
    />
  );
}

function ControlSwitch() {
  const store = useStore();
  const data = store.data.value;
  const { control } = store.selection.value;
  const has = hasControl(data);
  return (
    <button
      type="button"
      role="switch"
      aria-checked={control}
      class="ix-switch"
      disabled={!has}
      data-control-switch
      title={
        has
          ? "Show the control beside the model in every view"
          : (data.missing["control"] ?? "None in this run; add with --control random-init")
      }
      onClick={() => {
        store.select({ control: !control });
      }}
    >
      <i aria-hidden="true" /> {has ? `Control: ${short(data.controlName, 22)}` : "No untrained copy"}
    </button>
  );
}

function Bar() {
  const store = useStore();
  const data = store.data.value;
  const dark = store.theme.value === "dark";
  const box = useRef<HTMLDivElement>(null);
  useHeight(box, store.root, "--ix-bar");
  return (
    <div ref={box} class="ix-bar" role="region" aria-label="Selection">
      <div class="ix-name">
        {store.alone ? <h1>{data.title}</h1> : <h2>{data.title}</h2>}
        <span class="ix-unit">{data.model}</span>
      </div>
      <MeasureChoice />
      <Depth />
      <ControlSwitch />
      <div class="ix-tools">
        {store.themed && (
          <button
            type="button"
            class="ix-small"
            aria-pressed={dark}
            aria-label="Dark"
            title="Light or dark"
            onClick={() => {
              store.setTheme(dark ? "light" : "dark");
            }}
          >
            {dark ? "☀" : "☾"}
          </button>
        )}
        <button
          type="button"
          class="ix-small"
          aria-label="Keys"
          title="Keys (?)"
          onClick={() => {
            store.help.value = true;
          }}
        >
          ?
        </button>
      </div>
    </div>
  );
}

function Tabs() {
  const store = useStore();
  const { view } = store.selection.value;
  const step = (event: KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const next = VIEWS[(VIEWS.indexOf(view) + by + VIEWS.length) % VIEWS.length] ?? "layers";
    store.select({ view: next });
    store.root.querySelector<HTMLElement>(`[data-tab="${next}"]`)?.focus();
  };
  return (
    <div class="ix-tabs" role="tablist" aria-label="Views" onKeyDown={step}>
      {VIEWS.map((name) => (
        <button
          key={name}
          type="button"
          role="tab"
          id={store.id(`tab-${name}`)}
          data-tab={name}
          aria-selected={name === view}
          aria-controls={store.id("view")}
          tabIndex={name === view ? 0 : -1}
          onClick={() => {
            store.select({ view: name });
          }}
        >
          {SHOWN[name].name}
        </button>
      ))}
    </div>
  );
}

/** Tells screen readers what the keyboard moved to. */
function Spoken() {
  const store = useStore();
  const data = store.data.value;
  const { state, tokens, prompt, measure: name } = store.selection.value;
  useEffect(() => {
    const measure = measureOf(data, name);
    const position = tokens[tokens.length - 1] ?? 0;
    const token = (data.start[prompt] ?? 0) + position;
    const value = measure ? measure.values[token * measure.depth.length + column(measure, state)] : undefined;
    store.spoken.value = `Prompt ${data.ids[prompt] ?? 0}, position ${position}, ${stateName(state)}${measure ? `, ${measure.title} ${number(value)}` : ""}`;
  }, [store, data, state, tokens, prompt, name]);
  return (
    <div class="ix-unseen" role="status" aria-live="polite">
      {store.spoken.value}
    </div>
  );
}

function Inside() {
  const store = useStore();
  const { view } = store.selection.value;
  const data = store.data.value;
  const Shown = SHOWN[view].view;
  const panel = useRef<HTMLDivElement>(null);
  useArrival(view, store.root, panel);
  return (
    <div class="ix" data-theme={store.theme.value}>
      <div class="ix-inside">
        <Bar />
        <Live />
        <Story />
        <div class="ix-body">
          <PromptList />
          <div class="ix-main" role={store.alone ? "main" : undefined}>
            <TextView />
            <Tabs />
            <div
              ref={panel}
              id={store.id("view")}
              class="ix-view"
              role="tabpanel"
              aria-labelledby={store.id(`tab-${view}`)}
            >
              <Shown />
            </div>
            <p class="ix-provenance">{data.provenance}</p>
          </div>
        </div>
      </div>
      <Tip />
      <Help />
      <Spoken />
    </div>
  );
}

export const App = ({ store }: { store: Store }) => (
  <StoreContext.Provider value={store}>
    <Inside />
  </StoreContext.Provider>
);
