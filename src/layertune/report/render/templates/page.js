// Sorting by a column, and hiding rows without a number; the page is complete without either.
for (const table of document.querySelectorAll("table.numbers")) {
  table.querySelectorAll("thead th").forEach((head, place) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    if (!place) {
      button.textContent = "as printed";
      button.hidden = true; // until something is sorted
    }
    head.append(button);
    const number = row => parseFloat(row.cells[place]?.querySelector(".ours > b, .ours > u, .ours > span:not(.side)")?.textContent);
    button.onclick = () => {
      const down = head.ariaSort !== "descending";
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      table.querySelector("thead th button").hidden = !place;
      if (place) head.ariaSort = down ? "descending" : "ascending";
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter(row => !row.classList.contains("group"));
        rows.forEach((row, at) => row.dataset.at ??= at);
        const value = row => { const n = number(row); return isNaN(n) ? -Infinity : down ? n : -n; };
        rows.sort((a, b) => (place ? value(b) - value(a) : 0) || a.dataset.at - b.dataset.at);
        body.append(...rows);
      }
    };
  });
}
const label = document.createElement("label"), box = document.createElement("input");
box.type = "checkbox";
box.onchange = () => document.body.classList.toggle("recorded", box.checked);
label.append(box, " recorded rows only");
label.className = "tools";
for (const table of document.querySelectorAll("table.numbers"))
  for (const row of table.tBodies[0] ? [...table.tBodies].flatMap(body => [...body.rows]) : [])
    if (!row.classList.contains("group") && !row.querySelector("td .records, td.done, td.partial, td.failed, td.oom")) row.classList.add("unrecorded");
if (document.querySelector("table.numbers")) document.querySelector("h1").after(label);
