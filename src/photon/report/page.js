"use strict";
// Draws every plot of the page, in the colours that the reader's system asks for.
const plots = JSON.parse(document.getElementById("plots").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

const options = {
  responsive: true, displaylogo: false,
  modeBarButtons: [["toImage", "zoom2d", "autoScale2d", "resetScale2d"]],
};

function colours(isDark) {
  const ink = isDark ? "#e6e9ed" : "#1b1f24", line = isDark ? "#363c44" : "#d8dee4";
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": ink,
    "xaxis.gridcolor": line, "yaxis.gridcolor": line, "xaxis.zerolinecolor": line,
    "yaxis.zerolinecolor": line, "modebar.color": line, "modebar.activecolor": ink,
    "modebar.bgcolor": "rgba(0,0,0,0)",
  };
}

function paint(isDark) {
  for (const plot of plots) Plotly.relayout(plot.key, colours(isDark));
}

Promise.all(plots.map((plot) =>
  Plotly.newPlot(plot.key, plot.data, plot.layout, options)
)).then(() => {
  paint(dark.matches);
  document.body.dataset.drawn = plots.length;
});
dark.addEventListener("change", (event) => paint(event.matches));
window.addEventListener("beforeprint", () => paint(false));
window.addEventListener("afterprint", () => paint(dark.matches));
