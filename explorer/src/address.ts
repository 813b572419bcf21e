/** Keeps the address of the page up to date without asking the browser too often. */

/** Chromium and Firefox take about 200 changes in 10 s, and refuse further ones; WebKit takes fewer. */
const REST_MS = 150;

/** What holds the address: its part after the page, and a way to change it, as a new step of the history or in its place. */
export interface Place {
  now: () => string;
  put: (address: string, replace: boolean) => void;
}

/**
 * A writer of addresses. A first change is written at once. Those that follow before it has rested are
 * gathered, and the last of them is written: a link that is copied later holds what is on the page.
 */
export function addressWriter(place: Place, rest = REST_MS): Place["put"] {
  let waiting: string | null = null;
  let resting: ReturnType<typeof setTimeout> | undefined;
  let left = "";
  const write = (address: string, replace: boolean) => {
    waiting = null;
    place.put(address, replace);
    left = place.now();
    clearTimeout(resting);
    resting = setTimeout(end, rest);
  };
  const end = () => {
    resting = undefined;
    // Another address than the one that was left: the reader has gone back, or followed a link.
    if (waiting !== null && place.now() === left) write(waiting, true);
    waiting = null;
  };
  return (address, replace) => {
    if (replace && resting !== undefined) waiting = address;
    else write(address, replace);
  };
}
