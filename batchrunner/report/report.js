"use strict";
// Shows the embedded data: posters, players, provenance, filters. It sets text and attributes, never markup.
(() => {
  const data = (id) => JSON.parse(document.getElementById(id).textContent);
  const posters = data("posters"), clips = data("clips"), jobs = data("data");
  const cards = [...document.querySelectorAll(".card")];
  const make = (tag, fields = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), fields);
    node.append(...children);
    return node;
  };

  // Posters: only those near the window are loaded. A clip's poster has three frames; the card shows the middle one.
  const fit = (crop, width, height) => {
    crop.style.aspectRatio = `${width} / ${height}`;
    crop.style[Number(width) > Number(height) ? "width" : "height"] = "100%";
  };
  const show = (card) => {
    for (const place of card.querySelectorAll("[data-poster]")) {
      const uri = posters[place.dataset.poster];
      if (!uri || place.querySelector("img")) continue;
      const image = make("img", { decoding: "async", alt: "" });
      const name = card.querySelector("h3 bdi").textContent;
      if (place.matches(".play")) {
        const crop = make("span", { className: "crop" }, image);
        fit(crop, place.dataset.width, place.dataset.height); // before the image loads, because printing does not wait
        image.addEventListener("load", () => fit(crop, image.naturalWidth / 3, image.naturalHeight));
        place.prepend(crop);
      } else {
        image.alt = `${place.dataset.label} of ${name}`;
        place.prepend(image);
      }
      image.src = uri;
    }
  };
  const near = new IntersectionObserver((seen) => {
    for (const entry of seen) if (entry.isIntersecting) { show(entry.target); near.unobserve(entry.target); }
  }, { rootMargin: "800px" });
  cards.forEach((card) => near.observe(card));
  addEventListener("beforeprint", () => cards.filter((card) => !card.hidden).slice(0, 400).forEach(show));

  // Players: hovering over a clip plays it next to its reference, without controls. A click or Enter adds controls.
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const player = (place, source, label) => {
    const video = make("video", { src: source, muted: true, loop: true, playsInline: true, preload: "auto" });
    video.setAttribute("aria-label", label);
    video.addEventListener("error", () => { video.remove(); place.title = "The file is not in the directory of this page. batchrunner review also shows clips that only a bucket has."; });
    place.append(video);
    video.play().catch(() => {});
    return video;
  };
  const stop = (card) => {
    card.classList.remove("playing");
    card.querySelectorAll("video").forEach((video) => video.remove());
  };
  const start = (button, controls) => {
    const card = button.closest(".card"), pane = button.parentElement;
    stop(card);
    const name = card.querySelector("h3 bdi").textContent;
    const video = player(pane, button.dataset.clip, name);
    const beside = clips[button.dataset.reference];
    if (beside) {
      const reference = player(card.querySelector(".pane.video"), beside, `Reference clip of ${name}`);
      video.addEventListener("seeked", () => { reference.currentTime = Math.min(video.currentTime, reference.duration || 0); });
      video.addEventListener("pause", () => reference.pause());
      video.addEventListener("play", () => reference.play().catch(() => {}));
    }
    if (controls) { card.classList.add("playing"); video.controls = true; video.focus(); } else { video.style.pointerEvents = "none"; }
  };
  for (const button of document.querySelectorAll(".play")) {
    let soon = 0;
    const controlled = () => button.parentElement.querySelector("video[controls]");
    button.addEventListener("click", () => { clearTimeout(soon); start(button, true); });
    button.parentElement.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "mouse" || still.matches || controlled()) return;
      soon = setTimeout(() => start(button, false), 180);
    });
    button.parentElement.addEventListener("pointerleave", () => {
      clearTimeout(soon);
      if (!controlled()) stop(button.closest(".card"));
    });
  }
  addEventListener("keydown", (event) => {
    const card = event.key === "Escape" && document.activeElement.closest(".card");
    if (card && card.querySelector("video")) { stop(card); card.querySelector(".play").focus(); }
  });

  // Provenance is created when it is opened.
  for (const details of document.querySelectorAll(".more")) {
    details.addEventListener("toggle", () => {
      if (!details.open || details.querySelector("dl")) return;
      const list = make("dl"), card = details.closest(".card");
      const strip = posters[(card.querySelector(".play") || { dataset: {} }).dataset.poster];
      const name = card.querySelector("h3 bdi").textContent;
      if (strip) details.append(make("div", { className: "strip" }, make("img", { src: strip, alt: `First, middle and last frame of ${name}` })));
      for (const [label, text] of jobs[card.dataset.n].rows) {
        list.append(make("dt", { textContent: label }), make("dd", {}, make("code", { textContent: text })));
      }
      details.append(list);
    });
  }

  // Filters, order and view. The address contains the selection, so a view can be bookmarked and shared.
  const form = document.querySelector(".filters"), count = form.querySelector("output");
  const gallery = document.querySelector(".gallery"), table = document.querySelector(".table");
  const opener = document.querySelector(".opener"), openMore = opener.querySelector(".open-more"), openAll = opener.querySelector(".open-all");
  const step = matchMedia("(max-width: 40rem)").matches ? 10 : 60;
  const chips = [...form.querySelectorAll(".chips button")], filters = chips.filter((chip) => chip.name !== "view");
  const words = cards.map((card, n) => `${card.textContent} ${jobs[n].id}`.toLowerCase());
  const pressed = (chip) => chip.getAttribute("aria-pressed") === "true";
  const press = (chip, on) => chip.setAttribute("aria-pressed", String(on));
  const chosen = (name) => filters.filter((chip) => chip.name === name && pressed(chip)).map((chip) => chip.value);
  const value = (name) => (form.elements[name] ? form.elements[name].value : "");
  const view = () => chips.find((chip) => chip.name === "view" && pressed(chip)).value;
  const setView = (name) => chips.forEach((chip) => { if (chip.name === "view") press(chip, chip.value === name); });
  const figure = (number) => number.toLocaleString("en");
  let open = step, ordered = cards, sortedBy = "", matching = cards;

  // The takes of a job stay together: a job has the place of its first take in the order.
  const collate = new Intl.Collator("en", { numeric: true }).compare;
  const needs = { failed: 0, in_doubt: 1, in_flight: 2, pending: 3, succeeded: 4 };
  const keys = {
    suspicion: (card) => -card.dataset.suspicion, slow: (card) => -card.dataset.slow, state: (card) => needs[card.dataset.state],
  };
  const order = (by) => {
    const groups = new Map();
    for (const card of cards) groups.set(card.dataset.group, [...(groups.get(card.dataset.group) || []), card]);
    const list = [...groups.values()], key = keys[by];
    if (by === "name") {
      const name = new Map(list.map((group) => [group, group[0].querySelector("h3 bdi").textContent]));
      list.sort((a, b) => collate(name.get(a), name.get(b)));
    } else if (key) {
      const least = new Map(list.map((group) => [group, Math.min(...group.map(key))]));
      list.sort((a, b) => least.get(a) - least.get(b));
    }
    return list.flat();
  };

  const row = (card) => {
    const copy = (selector) => [...card.querySelectorAll(selector)].map((node) => node.cloneNode(true));
    const text = (selector) => (card.querySelector(selector) || { textContent: "" }).textContent;
    const cell = (className, ...children) => make("td", { className }, ...children);
    const job = make("th", { scope: "row" }, ...copy("h3 a, h3 > bdi"), ...copy(".take").flatMap((take) => [" ", take]));
    const message = card.querySelector(".pane.empty p"), marks = copy(".warning").flatMap((mark) => [mark, " "]);
    const said = message ? [...message.childNodes].filter((node) => node.nodeType === 3).map((node) => node.textContent) : [];
    const state = make("span", { className: card.dataset.state, textContent: card.dataset.state.replace("_", " ") });
    if (card.dataset.state === "succeeded") state.textContent = "done";
    if (card.dataset.state === "pending") state.textContent = "not submitted";
    return make("tr", {}, job, cell("inputs", text(".inputs")), cell("", state), cell("", ...copy(".badge.accept, .badge.reject")), cell("message", ...said, ...marks),
      cell("number", text(".facts .dimensions") || text(".facts .resolution")), cell("number", text(".facts .length")), cell("number", text(".facts .size")),
      cell("number", text(".facts .generated").replace("made in ", "")), cell("labels", copy(".tag").map((tag) => tag.textContent).join(", ")));
  };

  const draw = () => {
    const isTable = view() === "table", shown = matching.slice(0, open), visible = new Set(isTable ? [] : shown);
    if (sortedBy !== value("sort")) {
      sortedBy = value("sort");
      ordered = order(sortedBy);
      gallery.append(...ordered);
      filter();
      return;
    }
    for (const card of cards) card.hidden = !visible.has(card);
    gallery.hidden = isTable;
    gallery.classList.toggle("few", shown.length < 4);
    gallery.classList.toggle("slow", value("sort") === "slow");
    gallery.classList.toggle("many", shown.length > 240); // the browser then skips the cards that are out of sight
    if (!isTable) shown.slice(0, 120).forEach(show);
    table.hidden = !isTable || !matching.length;
    table.querySelector("tbody").replaceChildren(...(isTable ? shown.map(row) : []));
    const left = matching.length - shown.length;
    opener.hidden = left <= 0;
    openMore.textContent = `Show ${figure(Math.min(step, left))} more`;
    openAll.textContent = `Show all ${figure(matching.length)}`;
    openAll.hidden = left <= step;
    count.textContent = matching.length === cards.length ? `${figure(cards.length)} jobs`
      : `${figure(matching.length)} of ${figure(cards.length)} jobs`;
    document.querySelector(".none").hidden = matching.length > 0;
  };
  const filter = () => {
    const wanted = ["state", "resolution", "verdict", "marked"].map((name) => [name, chosen(name)]).filter(([, values]) => values.length);
    const tag = value("tag"), query = value("q").toLowerCase().split(/\s+/).filter(Boolean);
    matching = ordered.filter((card) => wanted.every(([name, values]) => values.includes(card.dataset[name]))
      && (!tag || jobs[card.dataset.n].tags.includes(tag))
      && query.every((word) => words[card.dataset.n].includes(word)));
    draw();
  };
  const remember = () => {
    const kept = new URLSearchParams();
    for (const name of ["state", "resolution", "verdict", "marked"]) for (const choice of chosen(name)) kept.append(name, choice);
    for (const name of ["tag", "q", "sort"]) if (value(name)) kept.set(name, value(name));
    if (view() !== "gallery") kept.set("view", view());
    history.replaceState(null, "", `#${kept}`);
  };
  const recall = () => {
    if (!location.hash.includes("=")) return;
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const chip of filters) press(chip, kept.getAll(chip.name).includes(chip.value));
    for (const name of ["tag", "q", "sort"]) if (form.elements[name]) form.elements[name].value = kept.get(name) || "";
    setView(kept.get("view") === "table" ? "table" : "gallery");
    filter();
  };
  const change = () => { open = step; filter(); remember(); };
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      if (chip.name === "view") setView(chip.value); else press(chip, !pressed(chip));
      change();
    });
  }
  openMore.addEventListener("click", () => { open += step; draw(); });
  openAll.addEventListener("click", () => { open = cards.length; draw(); });
  form.addEventListener("input", change);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    for (const chip of filters) press(chip, false);
    setTimeout(change);
  });
  addEventListener("hashchange", recall);
  form.hidden = cards.length < 2;
  filter();
  recall();

  // Copy buttons of commands.
  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.previousElementSibling;
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // Times are shown in the reader's time zone.
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  const full = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
  for (const time of document.querySelectorAll("time")) {
    time.title = time.textContent;
    time.textContent = full.format(new Date(time.dateTime));
  }
  const ticks = [...document.querySelectorAll("[data-moment]")];
  const whole = ticks.every((tick) => new Date(tick.dataset.moment).getSeconds() === 0);
  if (whole) delete clock.second;
  const short = new Intl.DateTimeFormat("sv-SE", clock);
  for (const tick of ticks) tick.textContent = short.format(new Date(tick.dataset.moment));
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  document.getElementById("zone").textContent = `Times are in this computer's time zone (${zone}). Hover over a time for UTC.`;
})();
