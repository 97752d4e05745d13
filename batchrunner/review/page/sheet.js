// The contact sheet: one cell for each reference clip and character, with the chosen take of each job.

import { el, thumb, BADGES } from "./dom.js";

const MOST_COLUMNS = 40;
const SPARSE = 3;  // a table with more cells than this many for each job is drawn as rows of clips
const CHUNK_ROWS = 40;

export function drawSheet(store, box, choose) {
  const rows = new Map();
  const columns = new Map();
  const cells = new Map();
  for (const ids of store.jobs.values()) {
    const takes = ids.map((id) => store.rows.get(id)).filter((row) => row.sha256);
    if (!takes.length) continue;
    const video = takes[0].inputs.find((input) => input.kind === "video");
    const image = takes[0].inputs.find((input) => input.kind === "image");
    const [across, down] = [keyOf(image), keyOf(video)];
    rows.set(down, video);
    columns.set(across, image);
    const place = `${down}\n${across}`;
    if (!cells.has(place)) cells.set(place, []);
    cells.get(place).push(takes);
  }
  const before = box.querySelector(".scroll");  // a redrawn sheet stays where it was
  const [top, left] = before ? [before.scrollTop, before.scrollLeft] : [0, 0];
  const heading = el("p", { className: "shown" }, cells.size ? "" : "There are no clips yet.");
  const isTable = columns.size <= MOST_COLUMNS && rows.size * columns.size <= SPARSE * store.jobs.size + 20;
  const table = el("div", { className: isTable ? "matrix" : "matrix flow", role: isTable ? "table" : "list" });
  table.setAttribute("aria-label", "Chosen takes by reference clip and character");
  if (isTable) {
    table.style.setProperty("--columns", columns.size);
    const names = [...columns.values()].map((image) => header(image, "columnheader"));
    table.append(el("div", { className: "line head", role: "row" }, el("span", { role: "cell", className: "corner" }), ...names));
  }
  box.replaceChildren(heading, el("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Contact sheet" }, table));
  const draw = (down) => {
    const line = el("div", { className: "line", role: isTable ? "row" : "listitem" }, header(rows.get(down), isTable ? "rowheader" : ""));
    for (const across of columns.keys()) {
      const jobs = cells.get(`${down}\n${across}`);
      if (!jobs && !isTable) continue;
      const cell = el("div", { className: "cell", role: isTable ? "cell" : "" }, ...(jobs ?? []).map((takes) => clip(store, takes, choose, isTable)));
      if (!isTable) cell.removeAttribute("role");
      line.append(cell);
    }
    return line;
  };
  const lines = [...rows.keys()];
  const more = () => {
    if (!box.contains(table)) return;
    table.append(...lines.splice(0, CHUNK_ROWS).map(draw));
    if (lines.length) requestAnimationFrame(more);  // a large sheet is drawn in pieces
    else if (top || left) table.parentElement.scrollTo(left, top);
  };
  more();
}

const keyOf = (input) => (input ? input.key ?? input.source : "");

function header(input, role) {
  const box = el("div", { className: "name" });
  if (role) box.setAttribute("role", role);
  if (!input) return box;
  if (input.key) box.append(thumb(`poster/small/${input.key}`, input.kind));
  box.append(el("span", { title: input.source }, input.name));
  return box;
}

// The accepted take, else the latest one that is not rejected, else the latest.
export function chosen(store, takes) {
  const latest = [...takes].reverse();
  return latest.find((row) => store.verdict(row) === "accept")
    ?? latest.find((row) => store.verdict(row) !== "reject")
    ?? latest[0];
}

function clip(store, takes, choose, isTable) {
  const row = chosen(store, takes);
  const verdict = store.verdict(row);
  const [sign, text] = BADGES[verdict];
  const parts = [row.label, takes.length > 1 ? `take ${row.take} of ${takes.length}` : "", text].filter(Boolean);
  const button = el("button", { type: "button", className: "clip", title: `${row.name}\n${parts.join(", ")}` });
  button.dataset.status = verdict;
  button.setAttribute("aria-label", parts.join(", "));
  button.append(thumb(`poster/medium/strip-${row.sha256}`, "strip"));
  if (verdict !== "none") button.append(el("span", { className: `sign ${verdict}`, ariaHidden: "true" }, sign));
  if (takes.length > 1) button.append(el("span", { className: "number", ariaHidden: "true" }, `take ${row.take}`));
  if (!isTable) button.append(el("span", { className: "label", ariaHidden: "true" }, row.label));
  button.addEventListener("click", () => choose(row.id));
  return button;
}
