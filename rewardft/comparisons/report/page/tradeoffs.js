"use strict";
/* One value against another, or against a cost, with the variants that no other beats in both. */
(() => {
  const plot = document.getElementById("trade-plot");
  if (!plot) return;
  const { variants, axes, focus } = Report.data;
  const yChoice = document.getElementById("trade-y");
  const xChoice = document.getElementById("trade-x");
  const found = new Map(variants.flatMap((variant) => Object.entries(variant.values)));
  const names = [...found.keys()].sort((a, b) => (b === focus) - (a === focus));
  const costs = { ...axes, memory: "peak memory (GiB)" };

  /* Staying near the base, or as diverse as it, is not good in itself, but it is what a gain is paid with. */
  const wanted = [[/(^|\/)kl\//, false], [/(^|\/)diversity\//, true]];
  const better = (name) => found.get(name).higher_is_better ?? wanted.find(([kind]) => kind.test(name))?.[1] ?? null;

  /* A way to read x off a variant: [value, low, high] or null. `better`: true for more, false for less, null for neither. */
  function measure(choice) {
    const [kind, name] = JSON.parse(choice.value);
    if (kind === "value") return { label: name, better: better(name), of: (v) => v.values[name]?.after ?? null, base: (v) => v.values[name]?.before ?? null };
    const of = name === "memory" ? (v) => v.memory && v.memory / 2 ** 30 : (v) => v.costs[name];
    return { label: costs[name], better: false, of: (v) => ((of(v) ?? null) === null ? null : [of(v), of(v), of(v)]), base: () => [0, 0, 0] };
  }

  function fill(choice, groups) {
    for (const [label, kind, entries] of groups) {
      if (!entries.length) continue;
      const group = Report.element("optgroup", { label });
      group.append(...entries.map(([name, text]) => Report.option(JSON.stringify([kind, name]), text)));
      choice.append(group);
    }
  }

  const ofRole = (wanted) => names.filter((name) => wanted(found.get(name).role)).map((name) => [name, name]);
  const costly = Object.entries(costs).filter(([name]) => variants.some((v) => (name === "memory" ? v.memory : v.costs[name] ?? null) !== null));
  fill(yChoice, [["Values per sample", "value", ofRole((role) => role !== "set")], ["Values per set", "value", ofRole((role) => role === "set")]]);
  fill(xChoice, [["Values per set", "value", ofRole((role) => role === "set")], ["Cost of a run", "cost", costly], ["Values per sample", "value", ofRole((role) => role !== "set")]]);

  /* Several rewards are first of all a trade between them; `GROUP/NAME` is the same one, of some of the samples. */
  const grouped = (name) => name.split("/").some((_, cut, parts) => cut > 0 && found.has(parts.slice(cut).join("/")));
  const trained = names.filter((name) => !grouped(name) && variants.some((v) => v.values[name]?.role === "reward"));
  if (trained.length > 1) [yChoice.value, xChoice.value] = trained.map((name) => JSON.stringify(["value", name]));

  function front(points, x, y) {
    if (x.better === null || y.better === null) return [];
    const [sx, sy] = [x.better ? 1 : -1, y.better ? 1 : -1];
    const beats = (a, b) => sx * a.x[0] >= sx * b.x[0] && sy * a.y[0] >= sy * b.y[0] && (a.x[0] !== b.x[0] || a.y[0] !== b.y[0]);
    return points.filter((point) => !points.some((other) => beats(other, point))).sort((a, b) => a.x[0] - b.x[0]);
  }

  function bars(of, colour) {
    const spread = of.map(([value, low, high]) => [(high ?? value) - value, value - (low ?? value)]);
    return { type: "data", symmetric: false, array: spread.map((s) => s[0]), arrayminus: spread.map((s) => s[1]), color: colour, thickness: 1.2, width: 0 };
  }

  function mark(point) {
    const { colour, symbol } = Report.style(point.index);
    return {
      type: "scatter", mode: "markers", x: [point.x[0]], y: [point.y[0]], name: Report.plain(variants[point.index].name),
      marker: { color: colour, symbol, size: 11 }, error_x: bars([point.x], colour), error_y: bars([point.y], colour),
      hovertemplate: "<b>%{fullData.name}</b><br>%{y:.4~g} at %{x:.5~s}<extra></extra>",
    };
  }

  /* Each name goes to the first of several places around its point where it covers no other name and no point. */
  function labels(points, xs, ys) {
    const [width, height] = [plot.clientWidth - 90, plot.clientHeight - 70];
    const pixel = (p) => [((p.x[0] - xs[0]) / (xs[1] - xs[0])) * width, ((ys[1] - p.y[0]) / (ys[1] - ys[0])) * height];
    const taken = points.map((p) => pixel(p)).map(([x, y]) => [x - 7, y - 7, x + 7, y + 7]);
    const scale = (low, high, [from, to], length) => [((low - from) / (to - from)) * length, ((high - from) / (to - from)) * length];
    for (const p of points) {
      const [x, y] = pixel(p);
      const [left, right] = scale(p.x[1] ?? p.x[0], p.x[2] ?? p.x[0], xs, width);
      const [up, down] = scale(p.y[1] ?? p.y[0], p.y[2] ?? p.y[0], ys, height).map((from) => height - from).reverse();
      taken.push([left, y - 1, right, y + 1], [x - 1, up, x + 1, down]);
    }
    const free = ([a, b, c, d]) => a >= 0 && c <= width && taken.every(([e, f, g, h]) => c < e || g < a || d < f || h < b);
    return points.flatMap((point) => {
      const [x, y] = pixel(point);
      const places = [[10, -12, "left"], [10, 12, "left"], [-10, -12, "right"], [-10, 12, "right"], [12, 0, "left"], [-12, 0, "right"], [8, -26, "left"], [8, 26, "left"], [-8, -26, "right"], [-8, 26, "right"]];
      const boxes = (most) => places.map(([dx, dy, side]) => {
        const wide = Math.min(point.name.length, most) * 7.2;
        const left = x + dx - (side === "left" ? 0 : wide);
        return { dx, dy, side, text: Report.plain(point.name, most), box: [left, y + dy - 8, left + wide, y + dy + 8] };
      });
      /* A long name is cut only where there is no place for more of it. */
      const chosen = [44, 24].flatMap(boxes).find(({ box }) => free(box));
      if (!chosen) return [];
      taken.push(chosen.box);
      return [{ x: point.x[0], y: point.y[0], xshift: chosen.dx, yshift: -chosen.dy, xanchor: chosen.side, yanchor: "middle", text: chosen.text, showarrow: false }];
    });
  }

  /* One point for each base: variants of another model or sampler have another one. */
  function bases(x, y) {
    const points = variants.map((variant) => ({ x: x.base(variant), y: y.base(variant), name: "base" }));
    const known = points.filter((point) => point.x && point.y && point.x[0] !== null && point.y[0] !== null);
    return [...new Map(known.map((point) => [`${point.x[0]} ${point.y[0]}`, point])).values()];
  }

  function draw() {
    if (!yChoice.value || !xChoice.value) return;
    const [x, y] = [measure(xChoice), measure(yChoice)];
    const whole = (point) => point.x && point.y && point.x[0] !== null && point.y[0] !== null;
    const all = variants.map((variant, index) => ({ index, name: variant.name, x: x.of(variant), y: y.of(variant) })).filter(whole);
    const points = all.filter((point) => Report.shown.has(point.index));
    const starts = bases(x, y);
    const best = front(all, x, y);
    const drawn = [...points, ...starts];
    const ranged = [...drawn, ...best];
    const [xs, ys] = [Report.range(ranged.flatMap((p) => p.x)), Report.range(ranged.flatMap((p) => p.y))];
    const quiet = Report.colour("quiet");
    const traces = [
      { type: "scatter", mode: "lines", x: best.map((p) => p.x[0]), y: best.map((p) => p.y[0]), line: { color: quiet, dash: "dot", width: 1.5 }, hoverinfo: "skip" },
      ...points.map(mark),
    ];
    if (starts.length) traces.push({ type: "scatter", mode: "markers", x: starts.map((p) => p.x[0]), y: starts.map((p) => p.y[0]), name: "base", marker: { symbol: "circle-open", size: 12, color: Report.colour("text"), line: { width: 2 } }, hovertemplate: "<b>base</b><br>%{y:.4~g} at %{x:.5~s}<extra></extra>" });
    Report.draw(plot, traces, Report.layout(x.label, y.label, { xaxis: { range: xs }, yaxis: { range: ys }, annotations: labels(drawn, xs, ys) }));
    const on = best.map((point) => point.name);
    const none = "There is no front: for one of the two, neither more nor less is better.";
    document.getElementById("trade-caption").textContent = `${y.label} against ${x.label}, with 95 % intervals. ${on.length ? `On the Pareto front of all variants' estimates: ${on.slice(0, 10).join(", ")}${on.length > 10 ? ` and ${on.length - 10} more` : ""}.` : none}`;
    const rows = all.map((point) => [point.name, Report.interval(point.y), Report.interval(point.x), on.includes(point.name) ? "yes" : on.length ? "no" : "no front"]);
    Report.table(document.getElementById("trade-table"), `${y.label} and ${x.label}`, ["Variant", y.label, x.label, "On the front"], rows);
  }

  xChoice.addEventListener("change", draw);
  yChoice.addEventListener("change", draw);
  Report.later(draw);
})();
