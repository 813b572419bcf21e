/** All prompts: searched, filtered by labels, and only those drawn that are on the screen. */

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Data, groupings, hasControl, sentence, span } from "../data.ts";
import { visible } from "../format.ts";
import { useVirtual } from "../hooks.ts";
import { useStore } from "../store.ts";
import { Choose } from "./Controls.tsx";

const ROW = 46;

/** Texts of prompts in small letters, made once. */
function useSearchTexts(data: Data): string[] {
  return useMemo(() => data.ids.map((id, p) => `${id} ${sentence(data, p, 4000)}`.toLowerCase()), [data]);
}

/** For each label, which of its values each prompt has: its own or one of its tokens'. */
function hasLabel(data: Data, place: number, label: string, value: string): boolean {
  const own = data.promptLabels[label];
  if (own) return String(own[place]) === value;
  const ofToken = data.tokenLabels.find(({ name }) => name === label);
  if (!ofToken) return false;
  const { first, length } = span(data, place);
  for (let i = first; i < first + length; i++)
    if (String(ofToken.values[ofToken.index[i] ?? -1]) === value) return true;
  return false;
}

export function matching(
  data: Data,
  texts: string[],
  search: string,
  filters: Record<string, string>,
): number[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = Object.entries(filters).filter(([, value]) => value);
  return data.ids.flatMap((_, p) => {
    const found = words.every((word) => texts[p]?.includes(word));
    return found && wanted.every(([label, value]) => hasLabel(data, p, label, value)) ? [p] : [];
  });
}

function labelTags(data: Data, place: number): string[] {
  return Object.entries(data.promptLabels).flatMap(([, values]) => {
    const value = values[place];
    return value === null || value === undefined || typeof value === "number" ? [] : [String(value)];
  });
}

function Row({
  id,
  data,
  place,
  chosen,
  top,
  onOpen,
}: {
  id: string;
  data: Data;
  place: number;
  chosen: boolean;
  top: number;
  onOpen: () => void;
}) {
  const { length } = span(data, place);
  const tags = labelTags(data, place);
  return (
    <div
      role="option"
      aria-selected={chosen}
      class="ix-prompt"
      data-prompt={data.ids[place]}
      id={id}
      style={{ transform: `translateY(${top}px)` }}
      onClick={onOpen}
      aria-posinset={place + 1}
      aria-setsize={data.ids.length}
    >
      <span class="ix-prompt-text" dir="auto">
        {visible(sentence(data, place).replace(/\s+/g, " "))}
      </span>
      <span class="ix-prompt-meta">
        <span>
          #{data.ids[place]} · {length} {length === 1 ? "token" : "tokens"}
        </span>
        {tags.slice(0, 3).map((tag, i) => (
          <bdi key={i}>{visible(tag)}</bdi>
        ))}
      </span>
    </div>
  );
}

interface ListProps {
  places: number[];
}

function List({ places }: ListProps) {
  const store = useStore();
  const data = store.data.value;
  const { prompt } = store.selection.value;
  const scroller = useRef<HTMLDivElement>(null);
  const { items, total, show } = useVirtual(scroller, { count: places.length, size: ROW });
  const at = places.indexOf(prompt);
  useLayoutEffect(() => {
    if (at >= 0) show(at);
    // Only when the prompt changes: while the reader scrolls, the list stays where it is.
  }, [at, places.length]);
  const onKeyDown = (event: KeyboardEvent) => {
    const step = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: 8,
      PageUp: -8,
      Home: -places.length,
      End: places.length,
    }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const next = places[Math.max(0, Math.min(places.length - 1, at + step))];
    if (next !== undefined) store.openPrompt(next);
  };
  return (
    <div
      ref={scroller}
      class="ix-list"
      role="listbox"
      tabIndex={0}
      aria-label="Prompts"
      onKeyDown={onKeyDown}
      aria-activedescendant={at >= 0 ? store.id(`prompt-${prompt}`) : undefined}
    >
      <div style={{ height: `${total}px`, position: "relative" }}>
        {items.map(({ index, start }) => {
          const place = places[index] ?? 0;
          return (
            <Row
              key={place}
              id={store.id(`prompt-${place}`)}
              data={data}
              place={place}
              chosen={place === prompt}
              top={start}
              onOpen={() => {
                store.openPrompt(place);
              }}
            />
          );
        })}
      </div>
      {places.length === 0 && <p class="ix-note">No prompt has this.</p>}
    </div>
  );
}

export function PromptList() {
  const store = useStore();
  const data = store.data.value;
  const [search, setSearch] = useState("");
  const [filters, setFilters] = useState<Record<string, string>>({});
  const texts = useSearchTexts(data);
  const labels = useMemo(() => groupings(data).filter(({ values }) => values.length > 1), [data]);
  const places = useMemo(() => matching(data, texts, search, filters), [data, texts, search, filters]);
  const { prompt } = store.selection.value;
  useEffect(() => {
    const first = places[0];
    if (search && first !== undefined && !places.includes(prompt)) store.openPrompt(first);
    // Follows what is typed, not what is chosen afterwards.
  }, [places]);
  const active = Object.values(filters).some(Boolean);
  const lack = data.missing["control"];
  return (
    <div class="ix-side" role="region" aria-label="Prompts">
      <input
        class="ix-search"
        type="search"
        placeholder="Search prompts"
        aria-label="Search prompts"
        value={search}
        onInput={(e) => {
          setSearch(e.currentTarget.value);
        }}
      />
      {labels.length > 0 && (
        <details class="ix-filters" open={active}>
          <summary>Filter by label</summary>
          {labels.map(({ label, values }) => (
            <Choose
              key={label}
              label={label}
              value={filters[label] ?? ""}
              options={[
                { value: "", text: "any" },
                ...values.map((value) => ({ value, text: visible(value) })),
              ]}
              onChoose={(value) => {
                setFilters({ ...filters, [label]: value });
              }}
            />
          ))}
        </details>
      )}
      <p class="ix-count" aria-live="polite">
        {places.length === data.ids.length ? `${places.length}` : `${places.length} of ${data.ids.length}`}{" "}
        {data.ids.length === 1 ? "prompt" : "prompts"}
        {data.sampled && ` · a sample of ${data.sampled.of.toLocaleString("en")}`}
      </p>
      {lack && !hasControl(data) && (
        <details class="ix-filters">
          <summary>No control here</summary>
          <p class="ix-note">{lack}.</p>
        </details>
      )}
      <List places={places} />
    </div>
  );
}
