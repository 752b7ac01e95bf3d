// Draws the figures and sorts the tables of a report.
"use strict";

(() => {
  const NARROW = 520; // px: below it names get less room, so that the figure keeps some
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map();

  async function draw(box) {
    const spec = JSON.parse(box.closest("figure").querySelector("script.spec").textContent);
    const choices = (spec.params || []).filter((param) => param.bind && param.bind.input === "select");
    const config = structuredClone(dark.matches ? themes.dark : themes.light);
    if (box.clientWidth < NARROW) {
      config.axis.labelLimit = 110;
      config.legend.columns = 1;
    }

    const before = drawn.get(box);
    const chosen = choices.map((param) => (before ? before.view.signal(param.name) : param.value));
    if (before) before.finalize();
    // `ast`: expressions are interpreted, not compiled, as the page's policy asks
    const result = await vegaEmbed(box, spec, { config, ast: true, renderer: "svg", actions: false });
    choices.forEach((param, i) => result.view.signal(param.name, chosen[i]));
    await result.view.runAsync();
    drawn.set(box, result);
  }

  async function drawAll() {
    for (const box of document.querySelectorAll(".plot")) await draw(box);
    document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
  }

  const collator = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => (typeof a === "number" ? a - b : collator.compare(a, b));

  function sort(header) {
    const column = [...header.parentNode.children].indexOf(header);
    const body = header.closest("table").tBodies[0];
    const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const keyed = [...body.rows].map((row) => {
      const { value } = row.cells[column].dataset;
      if (value === undefined) return { row, key: row.cells[column].textContent };
      return { row, key: value === "" ? null : Number(value) };
    });
    // what has no number comes last, whichever way the others run
    const missing = keyed.filter((item) => item.key === null);
    const present = keyed.filter((item) => item.key !== null);
    present.sort((a, b) => sign * compare(a.key, b.key));
    body.append(...[...present, ...missing].map((item) => item.row));
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  }

  for (const button of document.querySelectorAll("table.sortable th button")) {
    button.addEventListener("click", () => sort(button.parentNode));
  }
  let drawing = drawAll();
  dark.addEventListener("change", () => { drawing = drawing.then(drawAll); });
})();
