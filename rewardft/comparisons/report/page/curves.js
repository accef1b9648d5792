"use strict";
/* Values over training, on any axis: each seed thin, their mean thick. */
(() => {
  const plot = document.getElementById("curve-plot");
  if (!plot) return;
  const { variants, axes, axis: ofBudget, followed } = Report.data;
  const choice = document.getElementById("curve-value");
  const axisChoice = document.getElementById("curve-axis");
  const kinds = { evaluations: "Held-out evaluations", training: "Training means" };

  function names(kind) {
    const found = new Set(variants.flatMap((v) => v.runs.flatMap((run) => Object.keys(run[kind].values))));
    return [...found].sort((a, b) => (b === followed) - (a === followed) || a.localeCompare(b));
  }

  for (const [kind, label] of Object.entries(kinds)) {
    const found = names(kind);
    if (!found.length) continue;
    const group = Report.element("optgroup", { label });
    group.append(...found.map((name) => Report.option(JSON.stringify([kind, name]), name)));
    choice.append(group);
  }
  const known = new Set(variants.flatMap((v) => v.runs.flatMap((run) => Object.keys(kinds).flatMap((k) => Object.keys(run[k].axes)))));
  axisChoice.append(...Object.keys(axes).filter((axis) => known.has(axis)).map((axis) => Report.option(axis, axes[axis])));
  for (const axis of ["calls", ofBudget]) if (known.has(axis)) axisChoice.value = axis;

  /* A run's points, in the axis's order, without those that lack a number. */
  function points(run, kind, name, axis) {
    const xs = run[kind].axes[axis] ?? [];
    const ys = run[kind].values[name] ?? [];
    const both = xs.map((x, i) => [x, ys[i]]).filter(([x, y]) => x !== null && y !== null && y !== undefined);
    return both.sort((a, b) => a[0] - b[0]);
  }

  function at(curve, x) {
    const after = curve.findIndex((point) => point[0] >= x);
    const [x1, y1] = curve[after];
    if (x1 === x || after === 0) return y1;
    const [x0, y0] = curve[after - 1];
    return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
  }

  /* The mean over seeds, where all of them are: between the latest start and the earliest end. */
  function mean(curves) {
    const whole = curves.filter((curve) => curve.length);
    if (whole.length < 2) return whole[0] ?? [];
    const start = Math.max(...whole.map((curve) => curve[0][0]));
    const end = Math.min(...whole.map((curve) => curve[curve.length - 1][0]));
    const longest = whole.reduce((a, b) => (b.length > a.length ? b : a));
    const inside = longest.map((point) => point[0]).filter((x) => x > start && x < end);
    const grid = start < end ? [start, ...inside, end] : start === end ? [start] : [];
    return grid.map((x) => [x, whole.reduce((sum, curve) => sum + at(curve, x), 0) / whole.length]);
  }

  function curvesOf(index, kind, name, axis) {
    const runs = variants[index].runs.map((run) => ({ run, curve: points(run, kind, name, axis) }));
    const going = runs.filter(({ run }) => run.status !== "failed" && run.status !== "missing");
    return { index, runs, mean: mean((going.some(({ curve }) => curve.length) ? going : runs).map(({ curve }) => curve)) };
  }

  function line(curve, more) {
    return { type: "scatter", mode: "lines", x: curve.map((p) => p[0]), y: curve.map((p) => p[1]), ...more };
  }

  function traces({ index, runs, mean }) {
    const { colour, dash, symbol } = Report.style(index);
    const name = Report.plain(variants[index].name);
    const seeds = runs.flatMap(({ curve }) => [...curve, [null, null]]);
    const ends = runs.filter(({ run, curve }) => run.status === "failed" && curve.length).map(({ curve }) => curve[curve.length - 1]);
    const marked = mean.length <= 25 ? "lines+markers" : "lines";
    const drawn = [
      line(seeds, { line: { color: colour, width: 1 }, opacity: 0.4, hoverinfo: "skip" }),
      line(mean, {
        name, mode: marked, line: { color: colour, width: 2.5, dash }, marker: { color: colour, symbol, size: 7 },
        hovertemplate: "<b>%{fullData.name}</b><br>%{y:.4~g} at %{x:.5~s}<extra></extra>",
      }),
    ];
    if (ends.length) drawn.push(line(ends, { mode: "markers", marker: { symbol: "x", size: 9, color: colour }, name: `${name}, failed`, hovertemplate: "%{fullData.name}<extra></extra>" }));
    return drawn;
  }

  /* Names at the curves' ends, pushed apart so that none covers another. */
  function labels(curves, range) {
    const gap = ((range[1] - range[0]) * 17) / (plot.clientHeight - 70);
    const ends = curves.filter((curve) => curve.mean.length).map((curve) => ({ ...curve, y: curve.mean[curve.mean.length - 1][1] }));
    ends.sort((a, b) => a.y - b.y);
    ends.forEach((end, i) => (end.at = i ? Math.max(end.y, ends[i - 1].at + gap) : end.y));
    const over = ends.length ? ends[ends.length - 1].at - range[1] : 0;
    for (let i = ends.length - 1, top = Infinity; over > 0 && i >= 0; i--) top = (ends[i].at = Math.min(ends[i].at, i === ends.length - 1 ? range[1] : top - gap));
    return ends.map(({ index, at }) => ({
      x: 1, xref: "paper", xanchor: "left", xshift: 6, y: at, yref: "y", showarrow: false, align: "left",
      text: `<span style="color:${Report.style(index).colour}">━</span> ${Report.plain(variants[index].name, 22)}`,
    }));
  }

  function table(curves, name, axis) {
    const rows = curves.map(({ index, runs, mean }) => {
      const last = runs.filter(({ curve }) => curve.length).map(({ run, curve }) => `seed ${run.seed}: ${Report.number(curve[curve.length - 1][1])}${run.status === "failed" ? " (failed)" : ""}`);
      const end = mean[mean.length - 1] ?? [null, null];
      return [variants[index].name, Report.number(mean[0]?.[1]), Report.number(end[1]), Report.number(end[0]), last.join(", ") || "none"];
    });
    const columns = ["Variant", "Mean at the start", "Mean at the end", `End, ${axes[axis]}`, "Each seed's last value"];
    Report.table(document.getElementById("curve-table"), `${name}: where the curves end`, columns, rows);
  }

  function draw() {
    if (!choice.value) return;
    const [kind, name] = JSON.parse(choice.value);
    const axis = axisChoice.value;
    const curves = [...Report.shown].sort((a, b) => b - a).map((index) => curvesOf(index, kind, name, axis));
    const all = curves.flatMap(({ runs }) => runs.flatMap(({ curve }) => curve));
    const [xs, ys] = [Report.range(all.map((p) => p[0])), Report.range(all.map((p) => p[1]))];
    const labelled = !Report.narrow() && curves.length <= 16;
    const layout = Report.layout(axes[axis], name, { xaxis: { range: xs }, yaxis: { range: ys }, annotations: labelled ? labels(curves, ys) : [] });
    if (labelled) layout.margin.r = 190;
    Report.draw(plot, curves.flatMap(traces), layout);
    const drag = Report.narrow() ? "" : " Drag over the figure to zoom in, press twice to see all.";
    document.getElementById("curve-caption").textContent = `${kinds[kind]} of ${name} against ${axes[axis]}.${drag}`;
    table([...curves].reverse(), name, axis);
  }

  choice.addEventListener("change", draw);
  axisChoice.addEventListener("change", draw);
  Report.later(draw);
})();
