/** The keys and the views, in a dialog. */

import { useEffect, useRef } from "preact/hooks";
import { KEYS } from "../keys.ts";
import { useStore } from "../store.ts";
import { Title } from "./Controls.tsx";

const VIEWS_SAID: [string, string][] = [
  ["Text", "the prompt's tokens, coloured by a measure at a layer; all values under the pointer"],
  ["Layers", "each measure of the chosen tokens over depth, over the group's band and the control"],
  ["Lens", "what each state would predict; search for a token to see its rank"],
  ["Trajectory", "the ways of the tokens in shared principal axes"],
  ["Attention", "heads by a statistic, the chosen head's map and arcs"],
  ["Compare", "two prompts, tokens or groups, their difference and its test"],
];

export function Help() {
  const store = useStore();
  const ref = useRef<HTMLDialogElement>(null);
  const open = store.help.value;
  useEffect(() => {
    const dialog = ref.current;
    if (!dialog) return;
    if (open && !dialog.open) dialog.showModal();
    if (!open && dialog.open) dialog.close();
  }, [open]);
  return (
    <dialog
      ref={ref}
      class="ix-help"
      aria-label="Keys and views"
      onClose={() => {
        store.help.value = false;
      }}
      onClick={(e) => {
        if (e.target === ref.current) store.help.value = false;
      }}
    >
      <div>
        <Title>Keys</Title>
        <dl>
          {KEYS.filter((k) => k.shown).map((k) => (
            <div key={k.shown}>
              <dt>
                <kbd>{k.shown}</kbd>
              </dt>
              <dd>{k.does}</dd>
            </div>
          ))}
        </dl>
        <Title>Views</Title>
        <dl>
          {VIEWS_SAID.map(([name, says]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{says}</dd>
            </div>
          ))}
        </dl>
        <p class="ix-note">
          The selection stands in the address: a bookmark or a link brings it back. The control is shown
          beside the model, never in its place.
        </p>
        <button
          type="button"
          class="ix-small"
          onClick={() => {
            store.help.value = false;
          }}
        >
          Close
        </button>
      </div>
    </dialog>
  );
}
