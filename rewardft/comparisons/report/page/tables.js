"use strict";
/* Tables: ordered by a column when its heading is pressed, and built for the figures. */
(() => {
  function key(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent;
    const number = cell.dataset.sort === undefined || text.trim() === "" ? NaN : Number(text);
    return Number.isNaN(number) ? text : number;
  }

  /* Numbers before words, and what is not known last in both directions. */
  function order(column, sign) {
    return (a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
      return sign * (typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true }));
    };
  }

  document.addEventListener("click", (event) => {
    if (!event.target.matches(".sort")) return;
    const heading = event.target.closest("th");
    const down = heading.getAttribute("aria-sort") !== "descending";
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = heading.closest("table").tBodies[0];
    body.append(...[...body.rows].sort(order(heading.cellIndex, down ? -1 : 1)));
  });

  function cell(text, first) {
    const made = Report.element(first ? "th" : "td", { textContent: text });
    if (first) made.scope = "row";
    return made;
  }

  /* Replaces the table in `details`; rows of text, the first of each its name. */
  Report.table = (details, caption, columns, rows) => {
    const headings = columns.map((text) => Report.element("th", { scope: "col", textContent: text }));
    const table = Report.element(
      "table",
      { className: "intervals" },
      Report.element("caption", { textContent: caption }),
      Report.element("thead", {}, Report.element("tr", {}, ...headings)),
      Report.element("tbody", {}, ...rows.map((row) => Report.element("tr", {}, ...row.map((text, i) => cell(text, i === 0))))),
    );
    const scroll = Report.element("div", { className: rows.length > 12 ? "scroll tall" : "scroll", tabIndex: 0 }, table);
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", caption);
    details.querySelector(".scroll")?.remove();
    details.append(scroll);
  };
})();
