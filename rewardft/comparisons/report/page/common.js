"use strict";
/* What the other scripts share: data, colours, small builders of elements. Text is only ever set as text. */
const Report = {
  data: JSON.parse(document.getElementById("data").textContent),
  redraws: [],

  element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  },

  option(value, text = value) {
    return Report.element("option", { value, textContent: text });
  },

  colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  },

  /* Eight colours, then the same with other dashes: told apart by colour-blind readers through dash, symbol and label. */
  style(index) {
    const round = Math.floor(index / 8);
    return {
      colour: Report.colour(`c${index % 8}`),
      dash: ["solid", "dash", "dot", "dashdot"][round % 4],
      symbol: ["circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "pentagon"][index % 8],
    };
  },

  /* Plotly reads a little HTML in its texts; this shows a name as it is. */
  plain(text, most = Infinity) {
    const short = text.length > most ? `${text.slice(0, most - 1)}…` : text;
    return short.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  },

  number(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "unknown";
    const size = Math.abs(value);
    if (size !== 0 && size < 1e-4) return value.toExponential(2).replace("-", "−");
    const shown = size >= 10000 ? value.toLocaleString("en", { maximumFractionDigits: 0 }) : String(+value.toPrecision(4));
    return shown.replace("-", "−");
  },

  interval(found) {
    if (!found) return "unknown";
    return `${Report.number(found[0])} [${Report.number(found[1])}, ${Report.number(found[2])}]`;
  },

  later(redraw) {
    Report.redraws.push(redraw);
    redraw();
  },
};

(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const wanted = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;

  function apply() {
    const dark = chosen === null ? wanted.matches : chosen;
    root.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light colours" : "Dark colours";
  }

  apply();
  button.hidden = false;
  const change = () => {
    apply();
    Report.redraws.forEach((redraw) => redraw());
  };
  button.addEventListener("click", () => {
    chosen = root.dataset.theme !== "dark";
    change();
  });
  wanted.addEventListener("change", change);
})();
