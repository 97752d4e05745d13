// The clips on the stage: all takes of a job and the reference clip, played in step.

import { el, thumb, BADGES } from "./dom.js";

const USUAL_FPS = 30;
const DRIFT_S = 0.07;
const TAKES_MOST = 12;
const GAP_PX = 10;

export class Player {
  isWanted = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  isLoud = false;
  #store;
  #takes;
  #inputs;
  #shown = "";       // the job and its clips that are on the stage
  #videos = [];
  #figures = new Map();  // by id of the take
  #current = "";
  #onTime;
  #next = null;
  #ratio = 1;        // of the clips: width by height

  constructor(store, takes, inputs, onTime) {
    this.#store = store;
    this.#takes = takes;
    this.#inputs = inputs;
    this.#onTime = onTime;
    new ResizeObserver(() => this.#arrange()).observe(takes);
    requestAnimationFrame(() => this.#tick());
  }

  // Show the takes of a job, with one of them chosen. choose: called with the id of a take that is clicked.
  show(row, choose) {
    const ids = this.#store.jobs.get(row.job);
    const rows = ids.map((id) => this.#store.rows.get(id));
    const clips = rows.filter((take) => take.sha256).slice(-TAKES_MOST);
    if (!clips.includes(row)) clips.push(row);
    const key = [row.job, ...rows.map((take) => take.sha256 ?? take.state)].join(" ");
    if (key !== this.#shown) {
      this.clear();
      this.#shown = key;
      for (const take of rows) if (clips.includes(take) || !take.sha256) this.#add(take, rows.length > 1, choose);
      this.#takes.dataset.count = this.#takes.childElementCount;
      this.#ratio = row.width && row.height ? row.width / row.height : 1;
      this.#arrange();
      this.#inputs.replaceChildren(...row.inputs.map((input) => this.#input(input)));
      this.#start();
    }
    this.#current = row.id;
    this.mark();
  }

  // Choose the number of columns that shows the takes largest.
  #arrange() {
    const { clientWidth: width, clientHeight: height } = this.#takes;
    const takes = this.#takes.childElementCount;
    if (!takes || !width || !height) return;
    const caption = this.#takes.firstElementChild.querySelector("figcaption").offsetHeight;
    let best = { side: 0, columns: 1 };
    for (let columns = 1; columns <= takes; columns++) {
      const rows = Math.ceil(takes / columns);
      const across = (width - (columns - 1) * GAP_PX) / columns;
      const down = (height - (rows - 1) * GAP_PX) / rows - caption;
      const side = Math.floor(Math.min(across, down * this.#ratio));
      if (side > best.side) best = { side, columns };
    }
    this.#takes.style.gridTemplateColumns = `repeat(${best.columns}, ${best.side}px)`;
    this.#takes.style.setProperty("--ratio", this.#ratio);
  }

  clear() {
    for (const video of this.#videos) {
      video.pause();
      video.removeAttribute("src");
      video.load();
    }
    this.#videos = [];
    this.#figures.clear();
    this.#shown = "";
    this.#takes.replaceChildren();
    this.#inputs.replaceChildren();
  }

  // Load a clip that is likely to be next.
  expect(row) {
    const source = row ? `file/clip-${row.sha256}` : "";
    if (!row || this.#next?.getAttribute("src") === source) return;
    this.#next = el("video", { muted: true, preload: "auto", src: source });
  }

  // Show which take is chosen and the verdicts of all.
  mark() {
    for (const [id, figure] of this.#figures) {
      const row = this.#store.rows.get(id);
      const isCurrent = id === this.#current;
      figure.classList.toggle("current", isCurrent);
      figure.querySelector("button")?.setAttribute("aria-pressed", String(isCurrent));
      const verdict = row.sha256 ? this.#store.verdict(row) : "none";
      figure.dataset.status = verdict;
      const sign = figure.querySelector(".sign");
      if (sign) sign.textContent = verdict === "none" ? "" : `${BADGES[verdict][0]} ${BADGES[verdict][1]}`;
      const video = figure.querySelector("video");
      if (video) video.muted = !(this.isLoud && isCurrent);
    }
  }

  #add(row, isOneOfSeveral, choose) {
    const figure = el("figure", { className: "take" });
    figure.dataset.id = row.id;
    if (row.sha256) {
      const video = this.#video(`file/clip-${row.sha256}`, `Take ${row.take} of ${row.label}`);
      const box = el("div", { className: "film" }, video);
      box.addEventListener("click", () => choose(row.id));
      figure.append(box);
    } else {
      figure.append(el("div", { className: "film absent" }, el("p", {}, STATES[row.state] ?? row.state)));
    }
    const name = `Take ${row.take}`;
    const caption = el("figcaption", {}, el("span", { className: "sign" }));
    if (isOneOfSeveral && row.sha256) {
      const button = el("button", { type: "button", className: "quiet" }, name);
      button.addEventListener("click", () => choose(row.id));
      caption.prepend(button);
    } else if (isOneOfSeveral) {
      caption.prepend(el("span", {}, name));
    }
    figure.append(caption);
    this.#takes.append(figure);
    this.#figures.set(row.id, figure);
  }

  #input(input) {
    const title = input.kind === "video" ? "Reference" : "Character";
    const figure = el("figure", { className: `input ${input.kind}` });
    figure.style.setProperty("--ratio", input.width && input.height ? input.width / input.height : 1);
    if (input.key && input.kind === "video") {
      figure.append(el("div", { className: "film" }, this.#video(`file/${input.key}`, `Reference clip ${input.name}`)));
    } else if (input.key) {
      figure.append(el("div", { className: "film" }, this.#picture(input)));
    } else {
      figure.append(el("div", { className: "film absent" }, el("p", {}, "Not on this machine")));
    }
    figure.append(el("figcaption", { title: input.source }, el("b", {}, title), " ", input.key ? input.name : input.source));
    return figure;
  }

  #picture(input) {
    const picture = el("img", { alt: `Character image ${input.name}`, src: `file/${input.key}` });
    picture.addEventListener("error", () => {
      picture.replaceWith(thumb(`poster/large/${input.key}`, "image", picture.alt));
    }, { once: true });
    return picture;
  }

  #video(source, label) {
    const video = el("video", { muted: true, playsInline: true, preload: "auto", src: source });
    video.setAttribute("aria-label", label);
    video.addEventListener("loadedmetadata", () => this.#onTime(this));
    video.addEventListener("error", () => {
      const lost = el("p", { className: "lost" }, "The file is missing or has changed.");
      video.replaceWith(lost);
      fetch(source, { headers: { Range: "bytes=0-0" } }).then(async (reply) => {
        if (!reply.ok) lost.textContent = await reply.text(); // why, and what to do
      }).catch(() => { /* the server has ended */ });
      this.#videos = this.#videos.filter((other) => other !== video);
    });
    this.#videos.push(video);
    return video;
  }

  #start() {
    if (this.isWanted) this.play();
    else this.#onTime(this);
  }

  // Time

  // The longest take leads: when it ends, all begin again.
  get #leader() {
    const takes = this.#videos.filter((video) => this.#takes.contains(video));
    const length = (video) => (Number.isFinite(video.duration) ? video.duration : 0);
    return takes.reduce((best, video) => (best && length(best) >= length(video) ? best : video), null);
  }

  get time() {
    return this.#leader?.currentTime ?? 0;
  }

  get duration() {
    const length = this.#leader?.duration;
    return Number.isFinite(length) ? length : 0;
  }

  get isPlaying() {
    return this.isWanted && this.#videos.length > 0;
  }

  play() {
    this.isWanted = true;
    const leader = this.#leader;
    if (leader && leader.duration && leader.currentTime >= leader.duration - 0.01) this.seek(0);
    for (const video of this.#videos) video.play().catch(() => { /* it was replaced meanwhile */ });
    this.#onTime(this);
  }

  pause() {
    this.isWanted = false;
    for (const video of this.#videos) video.pause();
    this.seek(this.time);
  }

  toggle() {
    if (this.isWanted) this.pause();
    else this.play();
  }

  seek(time) {
    for (const video of this.#videos) {
      const end = Number.isFinite(video.duration) ? video.duration : time;
      video.currentTime = Math.max(0, Math.min(time, end));
    }
    this.#onTime(this);
  }

  // Move by whole frames. The middle of a frame is asked for, so rounding does not matter.
  step(frames) {
    this.isWanted = false;
    for (const video of this.#videos) video.pause();
    const fps = this.#store.rows.get(this.#current)?.fps || USUAL_FPS;
    const last = Math.max(0, Math.round(this.duration * fps) - 1);
    const frame = Math.min(last, Math.max(0, Math.floor(this.time * fps + 0.01) + frames));
    this.seek((frame + 0.5) / fps);
  }

  #tick() {
    const leader = this.#leader;
    if (leader && this.isWanted && !leader.seeking) {
      if (leader.ended) {
        this.seek(0);
        this.play();
      }
      for (const video of this.#videos) {
        const isOver = Number.isFinite(video.duration) && leader.currentTime >= video.duration;
        if (video === leader || video.seeking || video.readyState < 2 || isOver) continue;
        if (Math.abs(video.currentTime - leader.currentTime) > DRIFT_S) video.currentTime = leader.currentTime;
        if (video.paused) video.play().catch(() => { /* it was replaced meanwhile */ });
      }
      this.#onTime(this);
    }
    requestAnimationFrame(() => this.#tick());
  }
}

export const STATES = {
  failed: "failed",
  in_doubt: "in doubt",
  in_flight: "is being generated",
  pending: "not submitted yet",
};
