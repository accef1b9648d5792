"use strict";
/* What both figures share: the variants drawn, the look, the zoom buttons. */
(() => {
  if (!document.getElementById("curves")) return;
  const variants = Report.data.variants;
  const narrow = () => document.documentElement.clientWidth < 700;
  const best = () => new Set(variants.slice(0, 8).map((_, index) => index));
  Report.shown = best();
  Report.narrow = narrow;

  function swatch(index) {
    const { colour, dash } = Report.style(index);
    const dashes = { solid: "", dash: "6 3", dot: "2 3", dashdot: "6 3 2 3" }[dash];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({ width: 26, height: 10, "aria-hidden": "true" })) svg.setAttribute(name, value);
    const drawn = { x1: 0, x2: 26, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": dashes };
    for (const [name, value] of Object.entries(drawn)) line.setAttribute(name, value);
    svg.append(line);
    return svg;
  }

  function chip(variant, index) {
    const box = Report.element("input", { type: "checkbox", checked: Report.shown.has(index) });
    box.addEventListener("change", () => {
      if (box.checked) Report.shown.add(index);
      else Report.shown.delete(index);
      Report.redraws.forEach((redraw) => redraw());
    });
    return Report.element("label", {}, box, swatch(index), Report.element("span", { textContent: variant.name }));
  }

  const field = document.getElementById("variants");
  const chips = field.querySelector(".chips");
  Report.later(() => {
    const boxes = chips.querySelectorAll("input");
    if (!boxes.length) chips.append(...variants.map(chip));
    boxes.forEach((box, index) => (box.checked = Report.shown.has(index)));
    chips.querySelectorAll("svg").forEach((old, index) => old.replaceWith(swatch(index)));
  });
  field.addEventListener("click", (event) => {
    const wanted = event.target.dataset.show;
    if (!wanted) return;
    Report.shown = { best: best(), all: new Set(variants.keys()), none: new Set() }[wanted];
    Report.redraws.forEach((redraw) => redraw());
  });
  if (variants.length <= 8) field.querySelector("[data-show=best]").remove();

  /* A title on lines short enough for a phone. */
  function lines(title) {
    if (!narrow()) return Report.plain(title);
    const found = title.split(" ").reduce((all, word) => {
      const last = all.length - 1;
      if (last < 0 || all[last].length + word.length > 34) return [...all, word];
      return [...all.slice(0, last), `${all[last]} ${word}`];
    }, []);
    return found.map((line) => Report.plain(line)).join("<br>");
  }

  Report.layout = (x, y, more) => {
    const axis = (title) => ({
      title: { text: lines(title), standoff: 10 }, gridcolor: Report.colour("grid"), linecolor: Report.colour("line"),
      zerolinecolor: Report.colour("line"), automargin: true, tickfont: { size: 12 }, fixedrange: narrow(),
    });
    return {
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: Report.colour("text") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
      dragmode: narrow() ? false : "zoom", margin: { l: 56, r: narrow() ? 12 : 24, t: 12, b: 48 },
      hoverlabel: { bgcolor: Report.colour("page"), bordercolor: Report.colour("control"), font: { color: Report.colour("text") } },
      xaxis: { ...axis(x), ...more.xaxis }, yaxis: { ...axis(y), ...more.yaxis },
      annotations: more.annotations ?? [],
    };
  };
  Report.config = { displayModeBar: false, responsive: true, showTips: false };

  /* A range with air around the numbers. */
  Report.range = (numbers) => {
    const known = numbers.filter((number) => Number.isFinite(number) && number !== null);
    if (!known.length) return [0, 1];
    const low = known.reduce((a, b) => Math.min(a, b));
    const high = known.reduce((a, b) => Math.max(a, b));
    const air = (high - low || Math.abs(high) || 1) * 0.05;
    return [low - air, high + air];
  };

  function zoom(plot, factor, shift) {
    const change = {};
    for (const axis of ["xaxis", "yaxis"]) {
      const [low, high] = plot.layout[axis].range;
      const middle = (low + high) / 2 + (axis === "xaxis" ? shift * (high - low) : 0);
      const half = ((high - low) / 2) * factor;
      change[`${axis}.range`] = [middle - half, middle + half];
    }
    Plotly.relayout(plot, change);
  }

  for (const bar of document.querySelectorAll(".zoom")) {
    const plot = document.getElementById(bar.dataset.plot);
    const buttons = {
      "Zoom in": () => zoom(plot, 0.6, 0), "Zoom out": () => zoom(plot, 1 / 0.6, 0),
      "Left": () => zoom(plot, 1, -0.3), "Right": () => zoom(plot, 1, 0.3),
      "Reset": () => Plotly.relayout(plot, { "xaxis.range": plot.whole.x, "yaxis.range": plot.whole.y }),
    };
    for (const [textContent, onclick] of Object.entries(buttons)) {
      bar.append(Report.element("button", { type: "button", textContent, onclick }));
    }
  }

  Report.draw = (plot, traces, layout) => {
    plot.whole = { x: layout.xaxis.range, y: layout.yaxis.range };
    Plotly.react(plot, traces, layout, Report.config);
  };
})();
