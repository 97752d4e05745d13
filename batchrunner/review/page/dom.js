// Helpers that build elements. Text from the batch is set as text, never as markup.

export const BADGES = {
  accept: ["✓", "accepted"],
  reject: ["✕", "rejected"],
  none: ["", "undecided"],
  settled: ["–", "another take is accepted"],
};

const AGAIN_MS = 4000;
const MOST_AGAIN = 15;

export function el(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (properties.role) element.setAttribute("role", properties.role);
  element.append(...children);
  return element;
}

export const by = (id) => document.getElementById(id);

// A small picture. A strip has three frames side by side; its middle one is shown. A picture that does not exist yet is
// asked for again.
export function thumb(source, kind, alt = "") {
  const picture = el("img", { alt, decoding: "async", loading: "lazy", src: source, draggable: false });
  const box = el("span", { className: `thumb ${kind}` }, picture);
  let tries = 0;
  picture.addEventListener("load", () => box.classList.add("loaded"));
  picture.addEventListener("error", () => {
    box.classList.remove("loaded");
    if (++tries <= MOST_AGAIN) setTimeout(() => { if (picture.isConnected) picture.src = `${source}?${tries}`; }, AGAIN_MS);
  });
  return box;
}

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
