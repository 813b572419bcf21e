/** What components need from the browser: their width, a virtual list, motion. */

import {
  elementScroll,
  observeElementOffset,
  observeElementRect,
  type VirtualItem,
  Virtualizer,
} from "@tanstack/virtual-core";
import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useReducer, useRef, useState } from "preact/hooks";

/** The width of an element, in whole pixels, as it changes. */
export function useWidth(ref: RefObject<HTMLElement | null>, otherwise = 800): number {
  const [width, setWidth] = useState(otherwise);
  useLayoutEffect(() => {
    const element = ref.current;
    if (!element) return;
    const measure = () => {
      setWidth(Math.floor(element.clientWidth) || otherwise);
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => {
      observer.disconnect();
    };
  }, [ref, otherwise]);
  return width;
}

export interface Virtual {
  items: VirtualItem[];
  total: number;
  show: (index: number) => void;
}

interface Wanted {
  count: number;
  size: number;
  horizontal?: boolean;
  /** Room that a frozen header or column takes. */
  frozen?: number;
}

/** The items of a long list that are on the screen. */
export function useVirtual(
  scroller: RefObject<HTMLElement | null>,
  { count, size, horizontal = false, frozen = 0 }: Wanted,
): Virtual {
  const [, redraw] = useReducer((n: number) => n + 1, 0);
  const kept = useRef<Virtualizer<HTMLElement, HTMLElement> | null>(null);
  const options = {
    count,
    horizontal,
    overscan: 6,
    paddingStart: frozen,
    scrollPaddingStart: frozen + 4,
    getScrollElement: () => scroller.current,
    estimateSize: () => size,
    scrollToFn: elementScroll,
    observeElementRect,
    observeElementOffset,
    onChange: () => {
      redraw(0);
    },
  };
  kept.current ??= new Virtualizer<HTMLElement, HTMLElement>(options);
  const virtual = kept.current;
  virtual.setOptions(options);
  useLayoutEffect(() => virtual._didMount(), [virtual]);
  useLayoutEffect(() => {
    virtual._willUpdate();
  });
  useLayoutEffect(() => {
    virtual.measure();
  }, [virtual, size]);
  return {
    items: virtual.getVirtualItems(),
    total: virtual.getTotalSize(),
    show: (index) => {
      virtual.scrollToIndex(index);
    },
  };
}

/** The height of an element as a property of another, so that what sticks below it knows its place. */
export function useHeight(ref: RefObject<HTMLElement | null>, root: HTMLElement, property: string): void {
  useLayoutEffect(() => {
    const element = ref.current;
    if (!element) return;
    const measure = () => {
      root.style.setProperty(property, `${Math.floor(element.offsetHeight)}px`);
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => {
      observer.disconnect();
    };
  }, [ref, root, property]);
}

/** What has the focus, also inside a shadow tree. */
const focused = (root: HTMLElement): Element | null => {
  const tree = root.getRootNode();
  return tree instanceof ShadowRoot || tree instanceof Document ? tree.activeElement : null;
};

/** Brings the head of a view below what sticks above it, at once: less motion than any way there. */
function bringIntoSight(panel: HTMLElement, tabs: HTMLElement): void {
  const above = (parseFloat(getComputedStyle(tabs).top) || 0) + tabs.offsetHeight + 8;
  const { top } = panel.getBoundingClientRect();
  if (top >= above - 8 && top < innerHeight - 160) return;
  panel.style.scrollMarginTop = `${above}px`;
  panel.scrollIntoView({ block: "start", behavior: "instant" });
}

/** After a change of view the focus is still in the explorer, and the head of the view in sight. */
export function useArrival(view: string, root: HTMLElement, panel: RefObject<HTMLElement | null>): void {
  const before = useRef(view);
  // Asked before the old view leaves the page and takes the focus with it.
  const held = root.contains(focused(root));
  useLayoutEffect(() => {
    if (before.current === view) return;
    before.current = view;
    const tabs = root.querySelector<HTMLElement>("[role=tablist]");
    if (!panel.current || !tabs) return;
    if (held && !root.contains(focused(root)))
      tabs.querySelector<HTMLElement>("[aria-selected=true]")?.focus({ preventScroll: true });
    bringIntoSight(panel.current, tabs);
    // Once more when the figures of the new view know their width.
    const later = requestAnimationFrame(() =>
      requestAnimationFrame(() => {
        if (panel.current) bringIntoSight(panel.current, tabs);
      }),
    );
    return () => {
      cancelAnimationFrame(later);
    };
    // `held` belongs to the drawing in which the view changed.
  }, [view, root, panel]);
}

/** Whether the reader asks for less motion. */
export const calm = (): boolean => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Calls back at most once a frame, with the newest value. */
export function useFrame<T>(act: (value: T) => void): (value: T) => void {
  const waiting = useRef<{ value: T } | null>(null);
  const latest = useRef(act);
  latest.current = act;
  useEffect(
    () => () => {
      waiting.current = null;
    },
    [],
  );
  return (value) => {
    const first = waiting.current === null;
    waiting.current = { value };
    if (!first) return;
    requestAnimationFrame(() => {
      const last = waiting.current;
      waiting.current = null;
      if (last) latest.current(last.value);
    });
  };
}
