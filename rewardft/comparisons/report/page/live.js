"use strict";
/* A page that follows its folder: it is loaded again when something has changed, and comes back as it was left. */
(() => {
  const live = document.getElementById("live");
  const key = "rewardft-watch";
  const { grids } = JSON.parse(document.getElementById("live-data").textContent);

  const run = document.getElementById("grid-run");
  if (run) {
    const step = document.getElementById("grid-step");
    const picture = document.getElementById("grid-picture");
    /* By name: runs that had no picture yet come between. */
    run.append(...grids.map((grid) => Report.option(grid.run)));
    const chosen = () => grids.find((grid) => grid.run === run.value);
    const show = () => {
      const { pictures, run: name } = chosen();
      const one = pictures[Number(step.value)];
      if (picture.getAttribute("src") !== one.source) picture.src = one.source;
      picture.alt = `held-out samples of ${name} at step ${one.step}`;
      step.setAttribute("aria-valuetext", `step ${one.step}`);
      document.getElementById("grid-caption").textContent = `Step ${one.step} of ${name}, picture ${Number(step.value) + 1} of ${pictures.length}.`;
    };
    const choose = () => {
      step.max = chosen().pictures.length - 1;
      step.value = step.max; // the newest
      show();
    };
    run.addEventListener("change", choose);
    step.addEventListener("input", show);
    choose();
  }

  if (!live.dataset.version) return;
  const follow = document.getElementById("follow");
  const controls = () => [...document.querySelectorAll("select, input")];
  const focusable = () => [...document.querySelectorAll("a, button, select, input, summary, [tabindex]")];
  const said = (text) => (document.getElementById("follow-said").textContent = text);
  /* By what it is called: a new run or value must not move what was chosen to its neighbour. */
  const nameOf = (control) => control.id || control.closest("label")?.textContent || "";

  const range = (plot) => ({ "xaxis.range": plot.layout.xaxis.range.slice(), "yaxis.range": plot.layout.yaxis.range.slice() });
  const zoomed = (plot) => plot.whole && JSON.stringify(Object.values(range(plot))) !== JSON.stringify([plot.whole.x, plot.whole.y]);

  function left() {
    const chosen = controls().map((control) => [nameOf(control), control.type === "checkbox" ? control.checked : control.value]);
    const step = document.getElementById("grid-step");
    return {
      chosen: chosen.filter(([name]) => name && !(name === "grid-step" && step.value === step.max)),
      open: [...document.querySelectorAll("details")].map((details) => details.open),
      dark: document.documentElement.dataset.theme,
      focus: document.activeElement.id || focusable().indexOf(document.activeElement),
      zoomed: [...document.querySelectorAll(".plot")].filter(zoomed).map((plot) => [plot.id, range(plot)]),
      at: scrollY,
    };
  }

  function put(control, value) {
    const before = control.type === "checkbox" ? control.checked : control.value;
    if (before === value) return;
    if (control.type === "checkbox") control.checked = value;
    else control.value = value;
    // A value that is gone: as on a page that is new.
    if (control.tagName === "SELECT" && control.selectedIndex < 0) control.value = before;
    else control.dispatchEvent(new Event(control.type === "range" ? "input" : "change", { bubbles: true }));
  }

  function restore(was) {
    if (document.documentElement.dataset.theme !== was.dark) document.getElementById("theme").click();
    const wanted = new Map(was.chosen);
    controls().filter((control) => wanted.has(nameOf(control))).forEach((control) => put(control, wanted.get(nameOf(control))));
    for (const [id, at] of was.zoomed) if (document.getElementById(id)?.whole) Plotly.relayout(id, at);
    const folds = [...document.querySelectorAll("details")];
    if (folds.length === was.open.length) folds.forEach((details, index) => (details.open = was.open[index]));
  }

  /* Of the page as it is seen: what is hidden takes no focus. */
  function goBack(was) {
    // By its name where it has one: sections that were not there before come between.
    const focused = typeof was.focus === "string" ? document.getElementById(was.focus) : focusable()[was.focus];
    focused?.focus({ preventScroll: true });
    const scroll = () => touched || scrollTo({ top: was.at, behavior: "instant" });
    scroll();
    // A picture that is not loaded yet makes the page shorter.
    document.getElementById("grid-picture")?.addEventListener("load", scroll, { once: true });
  }

  let touched = 0;
  for (const kind of ["pointerdown", "keydown", "input", "wheel"]) addEventListener(kind, () => (touched = Date.now()), { passive: true });

  history.scrollRestoration = "manual";
  const kept = JSON.parse(sessionStorage.getItem(key));
  sessionStorage.removeItem(key);
  try {
    if (kept) restore(kept);
  } finally {
    document.documentElement.classList.remove("restoring");
    touched = 0; // what restoring has moved, nobody has
  }
  if (kept) goBack(kept);

  async function ask() {
    try {
      const answer = await fetch("version", { cache: "no-store" });
      if (!answer.ok) throw new Error(`it answers ${answer.status}`);
      const version = await answer.text();
      said("");
      const quiet = Date.now() - touched > 1500 && !document.hidden; // not under somebody's hand
      if (version === live.dataset.version || !follow.checked || !quiet) return;
      sessionStorage.setItem(key, JSON.stringify(left()));
      location.reload();
    } catch (error) {
      said(`Not up to date: ${error instanceof TypeError ? "the server has gone; start rewardft watch again" : error.message}.`);
    }
  }
  setInterval(ask, 2000);
})();
