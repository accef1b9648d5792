"use strict";
/* Base and tuned, one over the other, and one slider that wipes all of them. */
(() => {
  const grid = document.getElementById("grid");
  if (grid) {
    const { images, pairs } = JSON.parse(document.getElementById("pictures").textContent);
    const { variants } = Report.data;
    const view = document.getElementById("sample-view");
    const slider = document.getElementById("wipe");
    const samples = [...new Set(pairs.map((pair) => pair.sample))];
    const withPictures = [...new Set(pairs.map((pair) => pair.variant))].sort((a, b) => a - b);

    const group = (label, kind, entries) => {
      const made = Report.element("optgroup", { label });
      made.append(...entries.map(([value, text]) => Report.option(JSON.stringify([kind, value]), text)));
      return made;
    };
    view.append(
      group("One sample, all variants", "sample", samples.map((sample) => [sample, `Sample ${sample}`])),
      group("One variant, all samples", "variant", withPictures.map((index) => [index, variants[index].name])),
    );

    /* A strip of views has a row of its own, and is scrolled where the row is too short for it. */
    const laid = (made, width, height) => {
      made.classList.toggle("pixels", width <= 96);
      const frame = made.closest(".frame");
      if (!frame || width < 3 * height) return;
      frame.parentElement.classList.add("wide");
      frame.style.setProperty("--ratio", width / height);
      frame.tabIndex = 0;
      frame.setAttribute("role", "group");
      frame.setAttribute("aria-label", made.getAttribute("alt") || made.getAttribute("aria-label"));
    };
    const film = (src, alt) => {
      const made = Report.element("video", { src, muted: true, autoplay: true, loop: true, playsInline: true });
      made.setAttribute("role", "img");
      made.setAttribute("aria-label", alt);
      made.addEventListener("loadeddata", () => laid(made, made.videoWidth, made.videoHeight));
      return made;
    };
    const picture = (source, alt) => {
      if (images[source].startsWith("data:video/")) return film(images[source], alt);
      const made = Report.element("img", { alt, src: images[source], decoding: "async" });
      made.addEventListener("load", () => laid(made, made.naturalWidth, made.naturalHeight));
      return made;
    };
    const card = (pair, kind) => {
      const name = variants[pair.variant].name;
      const which = `sample ${pair.sample}${pair.group ? `, ${pair.group}` : ""}`;
      const both = [picture(pair.base, `${which}, from the base model`), picture(pair.tuned, `${which}, from ${name}`)];
      const text = kind === "sample" ? name : which[0].toUpperCase() + which.slice(1);
      const frame = Report.element("div", { className: "frame" }, Report.element("div", { className: "pair" }, ...both));
      return Report.element("li", {}, frame, Report.element("p", { textContent: text }));
    };
    const show = () => {
      const [kind, value] = JSON.parse(view.value);
      grid.replaceChildren(...pairs.filter((pair) => pair[kind] === value).map((pair) => card(pair, kind)));
    };
    const wipe = () => {
      grid.style.setProperty("--wipe", `${slider.value}%`);
      grid.classList.toggle("ends", slider.value === "0" || slider.value === "100");
      slider.setAttribute("aria-valuetext", slider.value === "0" ? "base" : slider.value === "100" ? "tuned" : `${slider.value} % tuned`);
    };
    view.addEventListener("change", show);
    slider.addEventListener("input", wipe);
    show();
    wipe();
  }
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
