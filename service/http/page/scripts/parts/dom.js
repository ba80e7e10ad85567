// Elements made from descriptions, words made from numbers, and icons. No text ever becomes markup.

let count = 0;

/** An id that no other element has. */
export const freshId = (name) => `${name}-${++count}`;

/**
 * An element. Properties: `class`, `text`, `on` (handlers by event), `vars` (custom properties of its style), `value` and
 * other fields of elements; everything else is an attribute, left out where it is false, null or undefined.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "value") element.value = value;
    else if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "vars") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const PATHS = {
  camera: "M4 8h3l2-3h6l2 3h3v11H4zM12 16.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7z",
  close: "M6 6l12 12M18 6L6 18",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M9 9.5h.01",
  key: "M14.5 13a4.5 4.5 0 1 0-4.2-3L4 16.5V20h3.5v-2.5H10V15l1.8-1.8M15.5 8.5h.01",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  plus: "M12 5v14M5 12h14",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5L19 19M5 19l1.5-1.5M17.5 6.5L19 5",
};

/** A picture beside words, which a screen reader passes over. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button; `look` is a class such as `primary`, `quiet` or `danger`. */
export function button(words, press, { look = "", picture = null, ...others } = {}) {
  const properties = { type: "button", class: `button ${look}`.trim(), on: { click: press }, ...others };
  return h("button", properties, picture && icon(picture), words);
}

/** A labelled control with a hint and a place for what is wrong with it. */
export function field(words, control, { hint = null } = {}) {
  control.id ||= freshId("field");
  const fault = h("p", { class: "fault", id: `${control.id}-fault`, hidden: true });
  const hinted = hint && h("p", { class: "hint", id: `${control.id}-hint`, text: hint });
  if (hinted) control.setAttribute("aria-describedby", hinted.id);
  return h("div", { class: "field" }, h("label", { for: control.id, text: words }), hinted, control, fault);
}

/** Say what is wrong with a control made by `field`, or with null that nothing is. */
export function setFault(control, words) {
  const fault = document.getElementById(`${control.id}-fault`);
  const others = (control.getAttribute("aria-describedby") ?? "").split(" ").filter((id) => id && id !== fault.id);
  fault.textContent = words ?? "";
  fault.hidden = !words;
  control.toggleAttribute("aria-invalid", false);
  if (words) control.setAttribute("aria-invalid", "true");
  const described = words ? [...others, fault.id] : others;
  if (described.length) control.setAttribute("aria-describedby", described.join(" "));
  else control.removeAttribute("aria-describedby");
}

/** 0.0712 as "7.1 %", which never breaks. */
export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "<\u202f0.1\u202f%";
  return `${value >= 99.95 || value === 0 ? Math.round(value) : value.toFixed(1)}\u202f%`;
}

/** A number of an attribute, short. */
export const short = (value) => String(Number(value.toPrecision(3)));

/** "1 class", "2 classes". */
export const counted = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

/** `has_bill_shape::curved` in words. */
export const inWords = (name) => name.replace(/::?|[_.]/g, " ").replace(/\s+/g, " ").trim();

/** Which kind of class it is, told by word and shape, not by colour alone. */
export function kindMark(kind) {
  const title = kind === "seen" ? "trained on images of it" : "known by its description only";
  return h("span", { class: `kind ${kind}`, title, text: kind });
}

/** A bar for the eye only; the number stands beside it. */
export const shareBar = (share, look = "") =>
  h("span", { class: `share-bar ${look} ${share > 0 ? "" : "none"}`.trim(), "aria-hidden": "true", vars: { "--share": Math.max(0, Math.min(1, share)) } });

const clearing = new Map();

function say(id, words, seconds) {
  const place = document.getElementById(id);
  place.textContent = words;
  clearTimeout(clearing.get(id));
  clearing.set(id, setTimeout(() => (place.textContent = ""), 1000 * seconds));
}

/** Say something to everyone, at the foot of the window and aloud, for some seconds. */
export const announce = (words, seconds = 6) => say("status", words, seconds);

/** Say aloud what everyone else sees anyway. */
export const tell = (words) => say("told", words, 6);
