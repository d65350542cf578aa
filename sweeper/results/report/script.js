// The table of the trials: a heading's button sorts by its column, a second click reverses it.
// Cells without a key always come last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const up = heading.ariaSort !== "ascending";
      for (const cell of headings) cell.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.key;
      const rows = [...body.rows].sort((one, two) => {
        const [a, b] = [key(one), key(two)];
        if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
        const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
}
// Buttons that copy a command, if the browser allows it.
if (navigator.clipboard) {
  for (const button of document.querySelectorAll(".copy-text")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "copied";
      setTimeout(() => (button.textContent = "copy"), 2000);
    });
  }
}
