"use strict";
const byId = id => document.getElementById(id);
const body = byId("list").tBodies[0], rows = [...body.rows], heads = [...byId("list").tHead.rows[0].cells].slice(0, -1);
// By row: loss, validation loss, accuracy, validation accuracy, each by epoch or null; null without any.
const curves = JSON.parse(byId("curves").textContent);
const cell = (row, column) => row.cells[column].textContent.trim();

function filter() {
  const words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = `${row.textContent} ${row.dataset.words}`.toLowerCase();
    row.hidden = !words.every(word => text.includes(word))
      || (byId("task").value && cell(row, 0) !== byId("task").value)
      || (byId("status").value && cell(row, 4) !== byId("status").value);
    shown += !row.hidden;
  }
  byId("count").textContent = `${shown} of ${rows.length} runs`;
}

function sort(column) {
  const down = heads[column].getAttribute("aria-sort") === "ascending";
  heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? (down ? "descending" : "ascending") : "none"));
  const numbers = heads[column].textContent.match(/Seed|accuracy|loss|Epochs/);
  rows.sort((a, b) => {
    const [x, y] = [cell(a, column), cell(b, column)];
    if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1);  // nothing measured: last, whichever way
    const order = numbers ? x - y : x.localeCompare(y, "en", {numeric: true});
    return down ? -order : order;
  });
  body.append(...rows);
}

// Small curves: validation accuracy or, if there is none, loss.
function spark(row, values) {
  const [width, height] = [120, 28], known = values.filter(v => v !== null);
  if (known.length < 2) return;
  const low = Math.min(...known), span = Math.max(...known) - low || 1;
  const points = values.map((v, i) => v === null ? "" : `${2 + (width - 4) * i / (values.length - 1)},${2 + (height - 4) * (1 - (v - low) / span)}`);
  const button = document.createElement("button");
  Object.assign(button, {type: "button", className: "spark",
    ariaLabel: `Curves of ${[0, 1, 2].map(i => cell(row, i)).join(" ")} seed ${cell(row, 3)}`,
    innerHTML: `<svg width="${width}" height="${height}" aria-hidden="true"><polyline points="${points.join(" ")}"/></svg>`});
  row.cells[heads.length].append(button);
}

function chart(title, lines, epochs) {
  const [width, height, left, bottom] = [Math.min(620, innerWidth * 0.94 - 50), 240, 62, 34];
  const known = lines.flatMap(line => line.values).filter(v => v !== null);
  const low = Math.min(...known), span = Math.max(...known) - low || 1;
  const x = i => left + (width - left - 12) * (epochs > 1 ? i / (epochs - 1) : 0.5), y = v => 12 + (height - bottom - 12) * (1 - (v - low) / span);
  const texts = [0, 0.5, 1].map(part => `<line x1="${left}" x2="${width - 12}" y1="${y(low + part * span)}" y2="${y(low + part * span)}"/>`
    + `<text x="${left - 6}" y="${y(low + part * span) + 4}" text-anchor="end">${(low + part * span).toPrecision(3)}</text>`);
  const marks = [...new Set([0, Math.floor((epochs - 1) / 2), epochs - 1])].map(i => `<text x="${x(i)}" y="${height - bottom + 18}" text-anchor="middle">${i + 1}</text>`);
  const drawn = lines.map(line => `<polyline class="${line.kind}" points="${line.values.map((v, i) => v === null ? "" : x(i) + "," + y(v)).join(" ")}"/>`);
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${title} by epoch">${texts.join("")}${marks.join("")}${drawn.join("")}`
    + `<text x="${(left + width) / 2}" y="${height - 2}" text-anchor="middle">${title} by epoch</text></svg>`;
}

function open(row) {
  const columns = curves[row.dataset.place];
  byId("large-title").textContent = `${cell(row, 0)}/${row.dataset.run}`;
  const panels = [["Loss", 0], ["Accuracy (%)", 2]].map(([title, first]) => {
    const lines = [["train", columns[first]], ["valid", columns[first + 1]]].filter(([, values]) => values)
      .map(([kind, values]) => ({kind, values}));
    return lines.length ? chart(title, lines, lines[0].values.length) : "";
  });
  byId("charts").innerHTML = panels.join("");
  byId("large").showModal();
  byId("large").scrollTop = 0;  // the focus is at its end
}

rows.forEach((row, place) => {
  row.dataset.place = place;
  row.dataset.words ??= rows[place - 1].dataset.words;  // written once for all seeds
  if (curves[place]) spark(row, curves[place][3] || curves[place][1] || []);
});
heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => sort(column)));
for (const id of ["words", "task", "status"]) byId(id).addEventListener("input", filter);
body.addEventListener("click", event => { const button = event.target.closest(".spark"); if (button) open(button.closest("tr")); });
filter();
