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
        image.alt = place.matches(".strip") ? `First, middle and last frame of ${name}`
          : `${place.dataset.label} of ${name}`;
        place.prepend(image);
      }
      image.src = uri;
    }
  };
  const near = new IntersectionObserver((seen) => {
    for (const entry of seen) if (entry.isIntersecting) { show(entry.target); near.unobserve(entry.target); }
  }, { rootMargin: "800px" });
  cards.forEach((card) => near.observe(card));
  addEventListener("beforeprint", () => { if (cards.length <= 400) cards.forEach(show); });

  // Players: hovering over a clip plays it next to its reference, without controls. A click or Enter adds controls.
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const player = (place, source, label) => {
    const video = make("video", { src: source, muted: true, loop: true, playsInline: true, preload: "auto" });
    video.setAttribute("aria-label", label);
    video.addEventListener("error", () => { video.remove(); place.title = "The file is not in the directory of this page"; });
    place.append(video);
    video.play().catch(() => {});
    return video;
  };
  const stop = (card) => card.querySelectorAll("video").forEach((video) => video.remove());
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
    if (controls) { video.controls = true; video.focus(); } else { video.style.pointerEvents = "none"; }
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
      const list = make("dl");
      for (const [label, text] of jobs[details.closest(".card").dataset.n].rows) {
        list.append(make("dt", { textContent: label }), make("dd", {}, make("code", { textContent: text })));
      }
      details.append(list);
    });
  }

  // Filters. The address contains the selection, so a view can be bookmarked and shared.
  const form = document.querySelector(".filters"), count = form.querySelector("output");
  const chips = [...form.querySelectorAll(".chips button")];
  const words = cards.map((card) => card.textContent.toLowerCase());
  const pressed = (chip) => chip.getAttribute("aria-pressed") === "true";
  const press = (chip, on) => chip.setAttribute("aria-pressed", String(on));
  const chosen = (name) => chips.filter((chip) => chip.name === name && pressed(chip)).map((chip) => chip.value);
  const value = (name) => (form.elements[name] ? form.elements[name].value : "");
  const filter = () => {
    const state = chosen("state"), resolution = chosen("resolution"), tag = value("tag");
    const query = value("q").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    cards.forEach((card, n) => {
      const fits = (!state.length || state.includes(card.dataset.state))
        && (!resolution.length || resolution.includes(card.dataset.resolution))
        && (!tag || jobs[n].tags.includes(tag))
        && query.every((word) => words[n].includes(word));
      card.hidden = !fits;
      shown += fits;
    });
    count.textContent = shown === cards.length ? `${cards.length.toLocaleString("en")} jobs`
      : `${shown.toLocaleString("en")} of ${cards.length.toLocaleString("en")} jobs`;
    document.querySelector(".none").hidden = shown > 0;
  };
  const remember = () => {
    const kept = new URLSearchParams();
    for (const name of ["state", "resolution"]) for (const choice of chosen(name)) kept.append(name, choice);
    for (const name of ["tag", "q"]) if (value(name)) kept.set(name, value(name));
    history.replaceState(null, "", `#${kept}`);
  };
  const recall = () => {
    if (!location.hash.includes("=")) return;
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const chip of chips) press(chip, kept.getAll(chip.name).includes(chip.value));
    for (const name of ["tag", "q"]) if (form.elements[name]) form.elements[name].value = kept.get(name) || "";
    filter();
  };
  const change = () => { filter(); remember(); };
  for (const chip of chips) {
    chip.addEventListener("click", () => { press(chip, !pressed(chip)); change(); });
  }
  form.addEventListener("input", change);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    for (const chip of chips) press(chip, false);
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
