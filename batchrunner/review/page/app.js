// The review page: keys and buttons, the current clip, filters, and the state of saving.

import { by, count, el } from "./dom.js";
import { List } from "./list.js";
import { Player } from "./player.js";
import { drawSheet } from "./sheet.js";
import { Store } from "./store.js";

const MESSAGE_MS = 6000;
const REDRAW_MS = 2000;

const store = new Store();
const list = new List(store, by("list"), (id) => { choose(id); closePane(); });
const player = new Player(store, by("takes"), by("inputs"), showTime);

let current = "";
let chosenReasons = [];   // of the current clip, before its verdict
const history = [];       // {id, sha256, before}: what each verdict replaced
let view = "clips";

const row = () => store.rows.get(current);

// The list

const FILTERS = {
  undecided: (one) => store.isUndecided(one),
  rejected: (one) => store.verdict(one) === "reject",
  accepted: (one) => store.verdict(one) === "accept",
  marked: (one) => one.marks.length + one.warnings.length > 0,
  all: () => true,
};

function matches(one, text) {
  if (!text) return true;
  const values = [one.name, one.label, ...Object.entries(one.tags).map(([key, value]) => `${key}: ${value}`),
    ...one.marks.map((mark) => `${mark.kind} ${mark.message}`), ...store.record(one).reasons, store.record(one).note];
  const found = values.join("\n").toLowerCase();
  return text.split(/\s+/).every((piece) => found.includes(piece));
}

function wanted() {
  const text = by("find").value.trim().toLowerCase();
  const keep = FILTERS[by("filter").value];
  const ids = store.ids.filter((id) => {
    const one = store.rows.get(id);
    return one.sha256 && keep(one) && matches(one, text);
  });
  if (by("order").value === "suspicion") {
    const place = new Map(ids.map((id, number) => [id, number]));
    const degree = (id) => store.rows.get(id).suspicion;
    ids.sort((one, other) => degree(other) - degree(one) || place.get(one) - place.get(other));
  }
  return ids;
}

// Make the list anew: after a change of the filters or of the batch. A verdict leaves the list as it is.
function fill(keepsPlace = true) {
  let ids = wanted();
  if (keepsPlace) {
    // Clips that were decided in this list stay, and new clips join it.
    const stays = new Set([...list.ids.filter((id) => store.rows.get(id)?.sha256), ...ids]);
    if (by("order").value === "manifest") ids = store.ids.filter((id) => stays.has(id));
    else ids = [...list.ids.filter((id) => stays.has(id)), ...ids.filter((id) => list.place(id) < 0)];
  }
  list.set(ids);
  showCount();
  if (!row()?.sha256 || (!keepsPlace && list.place(current) < 0)) choose(ids[0] ?? "");
  else list.select(current);
}

function showCount() {
  const clips = store.ids.filter((id) => store.rows.get(id).sha256).length;
  const listed = list.ids.length;
  by("shown").textContent = listed === clips ? count(clips, "clip") : `${listed.toLocaleString("en")} of ${count(clips, "clip")}`;
}

// The current clip

function choose(id) {
  if (id !== current) chosenReasons = [];
  current = id;
  list.select(id);
  showStage();
  const after = list.ids[list.place(id) + 1];
  player.expect(after ? store.rows.get(after) : null);
}

function go(steps) {
  const place = list.place(current) + steps;
  if (list.ids[place]) choose(list.ids[place]);
}

// After a verdict: the next undecided clip of the list, also from its beginning.
function goOn() {
  const { ids } = list;
  const place = list.place(current);
  const following = [...ids.slice(place + 1), ...ids.slice(0, Math.max(0, place))];
  const isBrowsing = ["rejected", "accepted"].includes(by("filter").value);
  const next = isBrowsing ? ids[place + 1] : following.find((id) => store.isUndecided(store.rows.get(id)));
  if (next) choose(next);
  else say(isBrowsing ? "This was the last clip of the list." : "Every clip of this list has a verdict.");
}

function showStage() {
  const one = row();
  document.body.classList.toggle("empty", !one?.sha256);
  for (const id of ["accept", "reject", "clear", "play", "seek", "frame-back", "frame-on", "sound"]) by(id).disabled = !one;
  if (!one?.sha256) {
    player.clear();
    by("title").textContent = store.isLoaded ? emptyTitle() : "Loading";
    by("subtitle").textContent = store.isLoaded ? emptyText() : "";
    by("findings").replaceChildren();
    showReasons();
    return;
  }
  by("title").textContent = one.label;
  by("subtitle").textContent = one.name === one.label ? "" : one.name;
  player.show(one, choose);
  showFindings(one);
  showReasons();
}

const hasClips = () => store.ids.some((id) => store.rows.get(id).sha256);

function emptyTitle() {
  return hasClips() ? "No clip matches" : "There are no clips yet";
}

function emptyText() {
  if (!hasClips()) return "Finished clips appear here while the run goes on.";
  return by("filter").value === "undecided" && !by("find").value
    ? "Every clip has a verdict. Choose another list, or look at the contact sheet."
    : "Choose another list, or change the text to find.";
}

function showFindings(one) {
  const record = store.record(one);
  const facts = [one.request.resolution, one.width ? `${one.width}×${one.height}` : "", one.duration_s ? `${one.duration_s.toFixed(1)} s` : "",
    `${(one.bytes / 1e6).toFixed(1)} MB`, one.file].filter(Boolean);
  const findings = [
    ...one.marks.map((mark) => el("li", { className: "mark" }, `▲ ${mark.message}`)),
    ...one.warnings.map((text) => el("li", { className: "mark" }, `▲ ${text}`)),
    ...(record.note ? [el("li", { className: "noted" }, `Note: ${record.note}`)] : []),
    ...(record.by ? [el("li", { className: "fact" }, `${VERDICTS[record.verdict]} by ${record.by}`)] : []),
    ...facts.map((text) => el("li", { className: "fact" }, text)),
    ...Object.entries(one.tags).map(([key, value]) => el("li", { className: "tag" }, `${key}: ${value}`)),
  ];
  by("findings").replaceChildren(el("ul", {}, ...findings));
}

const VERDICTS = { accept: "accepted", reject: "rejected", none: "cleared" };

function reasonsShown() {
  const one = row();
  if (!one?.sha256) return [];
  return store.verdict(one) === "none" ? chosenReasons : store.record(one).reasons;
}

function showReasons() {
  const one = row();
  const active = reasonsShown();
  const extra = active.filter((reason) => !store.reasons.includes(reason));
  const box = by("reasons");
  if (box.childElementCount !== store.reasons.length + extra.length) {
    box.replaceChildren(...[...store.reasons, ...extra].map((reason, place) => {
      const isKey = place < store.reasons.length;
      const button = el("button", { type: "button" }, ...(isKey ? [el("kbd", {}, String(place + 1)), " "] : []), reason);
      button.dataset.reason = reason;
      if (isKey) button.setAttribute("aria-keyshortcuts", String(place + 1));
      button.addEventListener("click", () => toggleReason(reason));
      return button;
    }));
  }
  [...box.children].forEach((button, place) => {
    button.dataset.reason = [...store.reasons, ...extra][place];
    button.setAttribute("aria-pressed", String(active.includes(button.dataset.reason)));
    button.disabled = !one?.sha256;
  });
  const verdict = one?.sha256 ? store.verdict(one) : "none";
  by("accept").setAttribute("aria-pressed", String(verdict === "accept"));
  by("reject").setAttribute("aria-pressed", String(verdict === "reject"));
  by("clear").disabled = verdict === "none";
  by("undo").disabled = history.length === 0;
}

// Verdicts

function give(verdict, changes = {}) {
  const one = row();
  if (!one?.sha256) return;
  const before = store.record(one);
  const reasons = changes.reasons ?? (verdict === "none" ? [] : reasonsShown());
  history.push({ id: one.id, sha256: one.sha256, before });
  chosenReasons = [];
  store.put(one, verdict, reasons, changes.note ?? (verdict === "none" ? "" : before.note), before.rating);
}

function decide(verdict) {
  if (!row()?.sha256) return;
  give(verdict);
  if (verdict !== "none") goOn();
  else showStage();
}

function toggleReason(reason) {
  const one = row();
  if (!one?.sha256 || !reason) return;
  const active = reasonsShown();
  const reasons = active.includes(reason) ? active.filter((other) => other !== reason) : [...active, reason];
  if (store.verdict(one) === "none") chosenReasons = reasons;
  else give(store.verdict(one), { reasons });
  showReasons();
}

function undo() {
  const last = history.pop();
  const one = last && store.rows.get(last.id);
  if (!one || one.sha256 !== last.sha256) return;
  const { verdict, reasons, note, rating } = last.before;
  store.put(one, verdict, reasons, note, rating);
  if (list.place(one.id) < 0) fill();
  choose(one.id);
  say(`Undone: ${one.name} is ${verdict === "none" ? "undecided" : VERDICTS[verdict]} again.`);
}

function writeNote() {
  if (!row()?.sha256) return;
  by("note-text").value = store.record(row()).note;
  by("note").showModal();
}

by("note").addEventListener("close", () => {
  if (by("note").returnValue === "save") give(store.verdict(row()), { note: by("note-text").value.trim() });
  by("note").returnValue = "";
});

// The state of the page

function showState() {
  const jobs = [...store.jobs.values()].map((ids) => ids.map((id) => store.rows.get(id)).filter((one) => one.sha256)).filter((takes) => takes.length);
  const decided = jobs.filter((takes) => !takes.some((one) => store.isUndecided(one))).length;
  const verdicts = { accept: 0, reject: 0, none: 0 };
  for (const takes of jobs) for (const one of takes) verdicts[store.verdict(one)]++;
  by("done").max = Math.max(1, jobs.length);
  by("done").value = decided;
  const pieces = [`${decided.toLocaleString("en")} of ${count(jobs.length, "job")} decided`, `${verdicts.accept.toLocaleString("en")} accepted`,
    `${verdicts.reject.toLocaleString("en")} rejected`];
  const { in_flight: active = 0, pending = 0 } = store.head.counts;
  if (active + pending) pieces.push(`${(active + pending).toLocaleString("en")} to come`);
  by("tally").textContent = pieces.join(" · ");
  by("name").textContent = store.head.name || "Review";
  by("standin").hidden = !store.head.is_sandbox;
  document.title = `${store.head.name} · review`;
  showSaved();
}

function showSaved() {
  const { unsaved } = store;
  let text = "";
  let kind = "good";
  if (store.isForeign) {
    text = `Not saved: ${count(unsaved, "verdict")}. The server was started again: open the address that it printed. They are saved there.`;
    kind = "bad";
  } else if (store.isLost) {
    text = unsaved ? `Not saved: ${count(unsaved, "verdict")}. The server does not answer; trying again.` : "The server does not answer.";
    kind = "bad";
  } else if (unsaved) {
    text = "Saving";
  } else if (store.problem) {
    text = store.problem;
    kind = "bad";
  } else {
    text = store.saved ? "All saved" : "";
  }
  const box = by("saved");
  if (box.textContent !== text) box.textContent = text;
  box.dataset.kind = kind;
}

let clearing = 0;
function say(text) {
  by("message").textContent = text;
  by("message").hidden = false;
  clearTimeout(clearing);
  clearing = setTimeout(() => { by("message").hidden = true; }, MESSAGE_MS);
}

function showTime() {
  const { time, duration } = player;
  by("seek").max = duration || 1;
  if (document.activeElement !== by("seek") || player.isPlaying) by("seek").value = time;
  by("time").textContent = `${time.toFixed(2)} / ${duration.toFixed(2)} s`;
  const text = player.isPlaying ? "Pause" : "Play";
  if (by("play").textContent !== text) by("play").textContent = text;
}

function showView(name) {
  view = name;
  by("clips").hidden = name !== "clips";
  by("sheet").hidden = name !== "sheet";
  by("view-clips").setAttribute("aria-pressed", String(name === "clips"));
  by("view-sheet").setAttribute("aria-pressed", String(name === "sheet"));
  if (name === "sheet") {
    player.clear();
    drawSheet(store, by("sheet"), chooseFromSheet);
  } else {
    showStage();
    list.draw();
  }
}

let redrawing = 0;
function redrawSheet() {
  redrawing = 0;
  if (view === "sheet") drawSheet(store, by("sheet"), chooseFromSheet);
}

function chooseFromSheet(id) {
  showView("clips");
  if (list.place(id) < 0) {
    by("filter").value = "all";
    by("find").value = "";
    fill(false);
  }
  choose(id);
}

function setPane(isOpen) {
  document.body.classList.toggle("pane-open", isOpen);
  by("pane-open").setAttribute("aria-expanded", String(isOpen));
  by("pane-open").textContent = isOpen ? "Close list" : "List";
}
const closePane = () => setPane(false);

function toggleSound() {
  player.isLoud = !player.isLoud;
  by("sound").setAttribute("aria-pressed", String(player.isLoud));
  player.mark();
}

// Keys

const KEYS = {
  a: () => decide("accept"),
  p: () => decide("accept"),
  x: () => decide("reject"),
  u: () => decide("none"),
  z: undo,
  n: writeNote,
  m: toggleSound,
  c: () => showView("sheet"),
  " ": () => player.toggle(),
  ",": () => player.step(-1),
  ".": () => player.step(1),
  ArrowLeft: () => go(-1),
  ArrowUp: () => go(-1),
  ArrowRight: () => go(1),
  ArrowDown: () => go(1),
  Home: () => list.ids.length && choose(list.ids[0]),
  End: () => list.ids.length && choose(list.ids.at(-1)),
};
const ALWAYS = {
  "/": () => { showView("clips"); setPane(true); by("find").focus(); by("find").select(); },
  "?": () => by("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  const { target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (target === by("find") && (event.key === "Escape" || event.key === "Enter")) {
    if (event.key === "Escape") { by("find").value = ""; fill(false); }
    by("list").focus();
    closePane();
    event.preventDefault();
    return;
  }
  if (target.matches("input[type=search], textarea, select")) return;
  if (target === by("seek") && event.key.startsWith("Arrow")) return;
  if (target.matches("button, summary, a") && (event.key === " " || event.key === "Enter") && target.matches(":focus-visible")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  let act = ALWAYS[key];
  if (!act && view === "sheet") act = key === "c" || key === "Escape" ? () => showView("clips") : undefined;
  else if (!act) act = KEYS[key] ?? (/^[1-9]$/.test(key) ? () => toggleReason(store.reasons[key - 1]) : undefined);
  if (!act || (event.repeat && !key.startsWith("Arrow") && key !== "," && key !== ".")) return;
  event.preventDefault();
  act();
});

// A clicked button does not keep the focus: Space plays, it does not repeat the click.
document.addEventListener("click", (event) => {
  if (event.detail > 0) event.target.closest("button")?.blur();
});

const CLICKS = {
  accept: KEYS.a, reject: KEYS.x, clear: KEYS.u, undo, previous: KEYS.ArrowLeft, next: KEYS.ArrowRight,
  play: KEYS[" "], "frame-back": KEYS[","], "frame-on": KEYS["."], sound: toggleSound,
  "view-clips": () => showView("clips"), "view-sheet": () => showView("sheet"), "help-open": ALWAYS["?"],
  "pane-open": () => setPane(!document.body.classList.contains("pane-open")),
};
for (const [id, act] of Object.entries(CLICKS)) by(id).addEventListener("click", act);
by("seek").addEventListener("input", () => { if (player.isPlaying) player.pause(); player.seek(Number(by("seek").value)); });
by("filter").addEventListener("change", () => { fill(false); by("list").focus(); });
by("order").addEventListener("change", () => { fill(false); by("list").focus(); });
by("find").addEventListener("input", () => fill(false));

// The batch

store.addEventListener("list", () => {
  const isFirst = !list.ids.length;
  if (isFirst && !store.ids.some((id) => store.isUndecided(store.rows.get(id))) && store.isLoaded && hasClips()) by("filter").value = "all";
  fill(!isFirst);
  showState();
});
store.addEventListener("rows", () => {
  fill();
  showVerdicts();
});
store.addEventListener("verdict", showVerdicts);  // of this page: the list stays as it is

function showVerdicts() {
  list.draw();
  if (view === "clips") { player.mark(); showStageAgain(); }
  else if (!redrawing) redrawing = setTimeout(redrawSheet, REDRAW_MS);
  showState();
}
store.addEventListener("change", () => {
  if (!row()?.sha256) {
    if (!list.ids.length && hasClips() && by("filter").value === "undecided" && !by("find").value) by("filter").value = "all";
    fill(false);
  }
  showState();
});
store.addEventListener("refused", (event) => say(event.detail));
store.addEventListener("restored", (event) => say(`${count(event.detail, "verdict")} of an earlier page will be saved now.`));

function showStageAgain() {
  const one = row();
  if (!one?.sha256) return;
  player.show(one, choose);
  showFindings(one);
  showReasons();
}

showStage();
store.start().catch(() => { store.isLost = true; showSaved(); setTimeout(() => location.reload(), MESSAGE_MS); });
