"use strict";
// Unpack text that is stored in the page as base64 of gzip.
const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(JSON.parse(document.getElementById(id).textContent)), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

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
