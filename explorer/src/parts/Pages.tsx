/** The part of a long list that is drawn, and the ways to its other parts. */

interface PagesProps {
  /** What the list holds, in the plural. */
  what: string;
  page: number;
  size: number;
  length: number;
  onPage: (page: number) => void;
}

export function Pages({ what, page, size, length, onPage }: PagesProps) {
  if (length <= size) return null;
  return (
    <div class="ix-pages" role="group" aria-label={`Parts of the ${what}`}>
      <button
        type="button"
        class="ix-small"
        disabled={page === 0}
        aria-label="Part before"
        onClick={() => {
          onPage(page - 1);
        }}
      >
        ‹
      </button>
      <span>
        {what} {page * size} to {Math.min(length, (page + 1) * size) - 1} of {length.toLocaleString("en")}
      </span>
      <button
        type="button"
        class="ix-small"
        disabled={(page + 1) * size >= length}
        aria-label="Next part"
        onClick={() => {
          onPage(page + 1);
        }}
      >
        ›
      </button>
    </div>
  );
}
