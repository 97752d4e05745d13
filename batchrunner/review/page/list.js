// The virtual list of clips: only the rows in view exist, so ten thousand clips stay quick.

import { el, thumb, BADGES } from "./dom.js";

const ROW_PX = 68;
const MARGIN_ROWS = 6;

export class List {
  #store;
  #box;
  #space;
  #items = new Map();  // element by id
  #ids = [];
  #places = new Map();
  #current = "";
  #isDue = false;
  #made = 0;

  constructor(store, box, choose) {
    this.#store = store;
    this.#box = box;
    this.#space = el("div", { className: "space", role: "presentation" });
    box.append(this.#space);
    box.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(box);
    box.addEventListener("click", (event) => {
      const item = event.target.closest("[data-id]");
      if (item) choose(item.dataset.id);
    });
  }

  get ids() {
    return this.#ids;
  }

  place(id) {
    return this.#places.get(id) ?? -1;
  }

  set(ids) {
    this.#ids = ids;
    this.#places = new Map(ids.map((id, place) => [id, place]));
    this.#space.style.height = `${ids.length * ROW_PX}px`;
    this.draw();
  }

  select(id) {
    this.#current = id;
    const place = this.place(id);
    if (place >= 0) {
      const top = place * ROW_PX;
      const height = this.#box.clientHeight;
      if (top < this.#box.scrollTop) this.#box.scrollTop = top - ROW_PX;
      else if (top + 2 * ROW_PX > this.#box.scrollTop + height) this.#box.scrollTop = top + 2 * ROW_PX - height;
    }
    this.draw();
  }

  // Draw once for each frame.
  draw() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#draw();
    });
  }

  #draw() {
    const first = Math.max(0, Math.floor(this.#box.scrollTop / ROW_PX) - MARGIN_ROWS);
    const last = Math.min(this.#ids.length, Math.ceil((this.#box.scrollTop + this.#box.clientHeight) / ROW_PX) + MARGIN_ROWS);
    const shown = new Map();
    for (let place = first; place < last; place++) {
      const id = this.#ids[place];
      const row = this.#store.rows.get(id);
      const item = this.#items.get(id) ?? this.#item(row);
      this.#fill(item, row, place);
      shown.set(id, item);
    }
    for (const [id, item] of this.#items) if (!shown.has(id)) item.remove();
    for (const item of shown.values()) if (!item.isConnected) this.#space.append(item);
    this.#items = shown;
    if (shown.has(this.#current)) this.#box.setAttribute("aria-activedescendant", shown.get(this.#current).id);
    else this.#box.removeAttribute("aria-activedescendant");
  }

  #item(row) {
    const item = el("div", { className: "item", role: "option", id: `row-${++this.#made}` });
    item.dataset.id = row.id;
    item.append(
      thumb(`poster/small/strip-${row.sha256}`, "strip"),
      el("div", { className: "names" }, el("span", { className: "label" }), el("span", { className: "id" })),
      el("span", { className: "badge" }),
    );
    return item;
  }

  #fill(item, row, place) {
    const store = this.#store;
    const verdict = store.verdict(row);
    const status = verdict === "none" && store.isSettled(row) ? "settled" : verdict;
    const marks = row.marks.length + row.warnings.length;
    const key = `${place} ${status} ${marks} ${row.id === this.#current} ${this.#ids.length}`;
    if (item.dataset.key === key) return;
    item.dataset.key = key;
    item.style.transform = `translateY(${place * ROW_PX}px)`;
    item.setAttribute("aria-selected", String(row.id === this.#current));
    item.setAttribute("aria-posinset", place + 1);
    item.setAttribute("aria-setsize", this.#ids.length);
    item.dataset.status = status;
    item.querySelector(".label").textContent = row.label;
    item.querySelector(".id").textContent = row.name;
    const [sign, text] = BADGES[status];
    const badge = item.querySelector(".badge");
    badge.replaceChildren(
      ...(marks ? [el("span", { className: "marked", title: "marked by quality" }, `▲ ${marks}`)] : []),
      el("span", { className: `sign ${status}` }, el("span", { ariaHidden: "true" }, sign), el("span", { className: "hidden" }, text)),
    );
  }
}
