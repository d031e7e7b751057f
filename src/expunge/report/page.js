"use strict";
// Unpack text that is stored in the page as base64 of gzip.
const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(JSON.parse(document.getElementById(id).textContent)), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

// The view of a reader (filters, columns) is in the address after #view?, so that a link shows the same.
const view = new URLSearchParams(location.hash.startsWith("#view?") ? location.hash.slice(6) : "");
const setView = (name, value) => {
  if (value === "" || value === null) view.delete(name);
  else view.set(name, value);
  try { history.replaceState(null, "", `#view?${view}`); } catch { /* some viewers of files allow no history */ }
};

// The columns of the results table: a choice of the reader, else as many as fit into the page.
const chooseColumns = () => {
  const table = document.getElementById("results"), chooser = document.getElementById("columns");
  if (!table || !chooser) return;
  const heads = [...table.tHead.rows[0].cells].slice(1);
  const hidden = new Set((view.get("without") ?? "").split(",").filter(Boolean));
  const apply = () => {
    heads.forEach((head, k) => {
      for (const row of table.rows) if (row.cells[k + 1]) row.cells[k + 1].hidden = hidden.has(head.dataset.key);
    });
    document.getElementById("columns-hidden").textContent = hidden.size ? ` (${hidden.size} of ${heads.length} hidden)` : "";
  };
  apply();
  if (!view.has("without") && window.matchMedia("(min-width: 700px)").matches) {
    for (let k = heads.length - 1; k > 2 && table.scrollWidth > table.parentElement.clientWidth; k--) {
      hidden.add(heads[k].dataset.key);
      apply();
    }
  }
  const boxes = heads.map((head) => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !hidden.has(head.dataset.key);
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(head.dataset.key);
      else hidden.add(head.dataset.key);
      apply();
      setView("without", [...hidden].join(",") || ",");
    });
    label.append(box, head.textContent);
    return label;
  });
  chooser.querySelector("fieldset").append(...boxes);
  chooser.hidden = false;
};
chooseColumns();

// The buttons are listed one by one: one of plotly's own would send the data to a server.
const PLOT = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]] };
PLOT.toImageButtonOptions = { format: "svg" };

// Arrow keys step through the points of a figure that has the focus: the label is shown, and spoken.
const steps = (div) => {
  const points = [];
  div.data.forEach((trace, curve) => {
    const n = trace.mode === "lines" ? 0 : div.calcdata[curve].length;
    for (let k = 0; k < n; k++) points.push([curve, k]);
  });
  let at = -1;
  const show = (step) => {
    if (!points.length) return;
    at = (at + step + points.length) % points.length;
    const [curveNumber, pointNumber] = points[at];
    const { text, name, xaxis, yaxis } = div._fullData[curveNumber];
    const subplot = (xaxis || "x") + (yaxis || "y");
    Plotly.Fx.hover(div, [{ curveNumber, pointNumber }], subplot);
    const { x, y } = div.calcdata[curveNumber][pointNumber];
    const said = Array.isArray(text) ? text[pointNumber] : `${text || name}: ${x}, ${y}`;
    const plain = new DOMParser().parseFromString(String(said).replaceAll("<br>", ", "), "text/html").body.textContent;
    document.getElementById("spoken").textContent = plain;
  };
  div.addEventListener("focus", () => { if (at < 0) show(1); });
  div.addEventListener("blur", () => { at = -1; Plotly.Fx.unhover(div); });
  div.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { event.preventDefault(); show(step); }
  });
};

const figures = async () => {
  if (!document.getElementById("data-plotly")) return;
  const script = document.createElement("script");
  script.textContent = await unpack("data-plotly");
  document.head.append(script);
  for (const data of document.querySelectorAll("script[data-figure]")) {
    const div = document.getElementById(data.dataset.figure);
    const { data: traces, layout } = JSON.parse(data.textContent);
    await Plotly.newPlot(div, traces, layout, PLOT);
    steps(div);
  }
  window.addEventListener("beforeprint", () => document.querySelectorAll(".plot").forEach((d) => Plotly.Plots.resize(d)));
};

const drawn = figures().catch((error) => {
  const place = document.getElementById("no-figures");
  place.hidden = false;
  place.textContent = "The figures could not be drawn: this browser is too old, or stopped the script. The tables contain their numbers.";
  console.error(error);
});
drawn.then(() => { document.documentElement.dataset.drawn = "yes"; });
