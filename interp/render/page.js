// Draws figures when they come near the screen. Text is painted before any library is started,
// and a library is inflated and started when the first figure that needs it is drawn. Stands last on
// the page: the libraries above must have been read to their end.
(() => {
  "use strict";
  const started = {};
  const run = async (kind) => {
    const library = document.getElementById("library-" + kind);
    if (!library) return;
    const data = atob(library.textContent);
    const bytes = Uint8Array.from(data, (letter) => letter.charCodeAt(0));
    const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const script = document.createElement("script");
    const text = await new Response(inflated).text();
    // circuitsvis would try WebAssembly and do without it. The policy of the page forbids it, and
    // Firefox complains of the attempt.
    script.textContent = kind === "maps" ? `"use strict"; { const WebAssembly = undefined;\n${text}\n}` : text;
    document.head.append(script);
  };
  const start = (kind) => (started[kind] = started[kind] || run(kind));
  // On a narrow screen the names at the ends of lines become a legend above them, and the figure
  // fits. Panels side by side and heatmaps keep their width and are scrolled.
  const narrow = (box, { data, layout }) => {
    const full = (axis) => !axis.domain || axis.domain[1] - axis.domain[0] > 0.9;
    const axes = Object.keys(layout).filter((key) => key.startsWith("xaxis"));
    if (innerWidth > 560 || !data.every((trace) => trace.type === "scatter")) return;
    if (!axes.every((key) => full(layout[key]))) return;
    // A title that is longer than its axis would be cut at both ends.
    for (const { title } of axes.map((key) => layout[key])) {
      if (!title || !title.text || title.text.length < 42) continue;
      title.text = title.text.replace(" (", "<br>(").replace(", ", ",<br>");
      layout.margin = Object.assign({}, layout.margin, { b: (layout.margin.b || 56) + 34 });
      box.style.height = `${box.clientHeight + 34}px`;
    }
    const ends = (note) => note.x === 1 && note.xanchor === "left";
    const notes = layout.annotations || [];
    const names = new Set(notes.filter(ends).map((note) => note.text));
    if (!names.size) return;
    layout.annotations = notes.filter((note) => !ends(note));
    for (const trace of data) {
      if (names.delete(trace.name)) trace.showlegend = true;
    }
    const lines = 20 * data.filter((trace) => trace.showlegend).length;
    layout.showlegend = true;
    layout.legend = { x: 0, y: 1, yref: "container", yanchor: "top", orientation: "h" };
    const top = (layout.margin.t || 30) + lines;
    layout.margin = Object.assign({}, layout.margin, { l: 48, r: 12, t: top });
    box.style.minWidth = "0";
    box.style.height = `${box.clientHeight + lines}px`;
  };
  // A report follows the reader's system, and paper is always light. Each colour of the figures has
  // one for the dark; what a caller chose (`palette=`) has none and stays.
  const follows = document.documentElement.dataset.follows === "system";
  const system = matchMedia("(prefers-color-scheme: dark)");
  // Kept, for whoever asks `system` between a change and its event takes the event away in Chromium:
  // a figure that was drawn at that moment left the others in the colours before.
  let dark = system.matches;
  const listed = document.getElementById("dark-colours");
  const darker = new Map(listed ? Object.entries(JSON.parse(listed.textContent)) : []);
  const hex = (rgb) => "#" + rgb.map((part) => Number(part).toString(16).padStart(2, "0")).join("");
  const channels = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  const inDark = (colour) => {
    const seen = /^rgba\((\d+),(\d+),(\d+),([\d.]+)\)$/.exec(colour);
    if (!seen) return darker.get(colour.toLowerCase()) || colour;
    const found = darker.get(hex(seen.slice(1, 4)));
    return found ? `rgba(${channels(found)},${seen[4]})` : colour;
  };
  // Only what stands under the name of a colour is one: a token may be called "white".
  const darkened = (node, named = false) => {
    if (typeof node === "string") return named ? inDark(node) : node;
    if (Array.isArray(node)) return node.map((part) => darkened(part, named));
    if (!node || typeof node !== "object") return node;
    const parts = Object.entries(node);
    const isName = (key) => named || /(color|colorscale|colorway)$/.test(key);
    return Object.fromEntries(parts.map(([key, part]) => [key, darkened(part, isName(key))]));
  };
  let printing = false;
  const themed = (figure) => (follows && dark && !printing ? darkened(figure) : structuredClone(figure));
  const painted = new Map();
  const paint = (how, box, figure, config) => {
    const { data, layout } = themed(figure);
    return how(box, data, layout, config);
  };
  const repaint = () => {
    for (const [box, [figure, config]] of painted) paint(Plotly.react, box, figure, config);
  };
  if (follows) {
    system.addEventListener("change", (event) => { dark = event.matches; repaint(); });
    addEventListener("beforeprint", () => { printing = true; repaint(); });
    addEventListener("afterprint", () => { printing = false; repaint(); });
  }
  const draws3d = () => {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
  };
  // Without WebGL, what has three axes is drawn on the first two of them, and a line says so.
  const flat = (box, { data, layout }) => {
    const solid = data.filter((trace) => trace.type === "scatter3d");
    if (!solid.length || draws3d()) return;
    for (const trace of solid) {
      const { color, width } = trace.line;
      // Lines and dots as those of two dimensions, whose lines have one colour each.
      trace.line = { color: Array.isArray(color) ? "#B7BEC6" : color, width: width / 1.75 };
      const { size } = trace.marker;
      trace.marker.size = Array.isArray(size) ? size.map((dot) => dot / 0.6) : size / 0.6;
      trace.type = "scatter";
      delete trace.z;
    }
    for (const axis of ["xaxis", "yaxis"]) layout[axis] = { ...layout[axis], title: layout.scene[axis].title };
    delete layout.scene;
    const note = document.createElement("p");
    note.className = "says";
    note.textContent = "This browser has no WebGL, so the first two of the three axes are shown.";
    box.closest(".scroll").before(note);
  };
  const draw = {
    plotly(box, data) {
      flat(box, data);
      narrow(box, data);
      const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
      // There is no room for the buttons on a narrow screen: they would lie on names and legend.
      if (innerWidth <= 560) config.displayModeBar = false;
      painted.set(box, [data, config]);
      return paint(Plotly.newPlot, box, data, config);
    },
    maps(box, data) {
      const inner = document.createElement("div");
      inner.id = box.id + "-maps";
      box.append(inner);
      CircuitsVis.render(inner.id, CircuitsVis.AttentionHeads, data);
    },
    tokens(box, data) {
      const add = (parent, tag, kind, text) => {
        const made = document.createElement(tag);
        made.className = kind;
        made.textContent = text;
        parent.append(made);
        return made;
      };
      if (data.scale) {
        const scale = add(box, "p", "scale", "");
        add(scale, "span", "", data.scale.low);
        add(scale, "i", "", "").style.background = `linear-gradient(to right, ${data.scale.colours})`;
        add(scale, "span", "", data.scale.high);
        add(scale, "span", "given", "not coloured: the prompt");
      }
      for (const text of data.texts) {
        add(box, "p", "about", text.name);
        const running = add(box, "p", "running", "");
        for (const [token, written, colour, said] of text.tokens) {
          const piece = add(running, "span", written ? "written" : "given", token);
          // These shades are light in the dark, too: so are their letters dark.
          if (colour) Object.assign(piece.style, { background: colour, color: "#1f2328" });
          if (said) piece.title = said;
        }
      }
    },
  };
  const show = async (box) => {
    if (box.dataset.drawn || box.closest("[hidden]")) return;
    box.dataset.drawn = "yes";
    try {
      await start(box.dataset.kind);
      draw[box.dataset.kind](box, JSON.parse(document.getElementById(box.id + "-data").textContent));
    } catch (error) {
      box.textContent = "This figure could not be drawn: " + error;
    }
  };
  for (const select of document.querySelectorAll("select.choose")) {
    select.addEventListener("change", () => {
      for (const option of select.options) {
        document.getElementById(option.value + "-choice").hidden = option.value !== select.value;
      }
      show(document.getElementById(select.value));
    });
  }
  const mark = (pane) =>
    pane.classList.toggle("more", pane.scrollWidth - pane.clientWidth - pane.scrollLeft > 2);
  const panes = [...document.querySelectorAll(".scroll, .table")];
  const sized = new ResizeObserver((seen) => {
    for (const entry of seen) mark(entry.target.closest(".scroll, .table"));
  });
  for (const pane of panes) {
    pane.addEventListener("scroll", () => mark(pane), { passive: true });
    sized.observe(pane);
    if (pane.firstElementChild) sized.observe(pane.firstElementChild);
  }
  const boxes = [...document.querySelectorAll(".canvas")];
  const watch = new IntersectionObserver((seen) => {
    for (const entry of seen) if (entry.isIntersecting) show(entry.target);
  }, { rootMargin: "300px" });
  const rest = () => boxes.filter((b) => !b.dataset.drawn && b.dataset.kind !== "maps" && !b.closest("[hidden]"));
  const idle = window.requestIdleCallback || ((f) => setTimeout(f, 200));
  const later = async () => {
    const next = rest()[0];
    if (next) { await show(next); idle(later); }
  };
  requestAnimationFrame(() => setTimeout(() => {
    if (boxes.length) show(boxes[0]);
    for (const box of boxes) watch.observe(box);
    idle(later);
  }));
  addEventListener("beforeprint", () => { for (const box of rest()) show(box); });
})();
