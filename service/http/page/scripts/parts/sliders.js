// Attributes by sliders, in groups by the beginning of their names. What is left open takes the mean and says nothing.

import { button, counted, freshId, h, inWords, short } from "./dom.js";

const OPEN_UP_TO = 40; // with more attributes, or on a small screen, the groups begin closed

/** Groups of attributes by prefix, in the order of the vocabulary; those that stand alone come last. */
export function grouped(attributes) {
  const prefix = (name) => name.match(/^(.+?)(?:::|:|\.|_)./)?.[1] ?? null;
  const sizes = new Map();
  for (const { name } of attributes) sizes.set(prefix(name), (sizes.get(prefix(name)) ?? 0) + 1);
  const groups = new Map();
  const alone = [];
  for (const attribute of attributes) {
    const group = prefix(attribute.name);
    if (group === null || sizes.get(group) < 2) alone.push(attribute);
    else groups.set(group, [...(groups.get(group) ?? []), attribute]);
  }
  const named = [...groups].map(([name, members]) => ({ name, members, beginning: name }));
  if (alone.length) named.push({ name: named.length ? "other attributes" : "attributes", members: alone, beginning: "" });
  return named;
}

/** What of a name tells it from the others of its group. */
export const ownPart = (name, beginning) => (beginning ? inWords(name.slice(beginning.length)) : inWords(name));

function slider(attribute, beginning, changed) {
  const { name, min, max, mean, description, unit } = attribute;
  const id = freshId("slider");
  const full = inWords(name);
  const step = max > min ? (max - min) / 100 : 0.01;
  const range = h("input", { type: "range", id, min, max: max > min ? max : min + 1, step, value: mean, "aria-label": full });
  const exact = h("input", { type: "number", step: "any", placeholder: short(mean), "aria-label": `${full}, exact value` });
  const open = button("", () => set(null, true), { look: "round", picture: "close", "aria-label": `Leave ${full} open`, title: "Leave it open" });
  const label = h("label", { for: id, text: ownPart(name, beginning), title: description || name });
  const row = h("div", { class: "slider", vars: { "--mean": max > min ? (mean - min) / (max - min) : 0.5 } }, label, range, exact, open);
  if (description) row.append(h("p", { class: "hint", text: unit ? `${description} (${unit})` : description }));
  let value = null;

  function set(next, tell) {
    value = next;
    row.classList.toggle("set", value !== null);
    open.disabled = value === null;
    range.value = value ?? mean;
    range.setAttribute("aria-valuetext", value === null ? `open, takes the mean ${short(mean)}` : short(value));
    if (document.activeElement !== exact) exact.value = value === null ? "" : short(value);
    row.classList.remove("wrong");
    if (tell) changed();
  }

  range.addEventListener("input", () => set(Number(range.value), true));
  exact.addEventListener("input", () => {
    const typed = exact.valueAsNumber;
    if (exact.value === "" && !exact.validity.badInput) set(null, true);
    else if (Number.isFinite(typed)) set(typed, true);
  });
  exact.addEventListener("blur", () => set(value, false));
  set(null, false);
  return { attribute, row, set, get: () => value, wrong: () => row.classList.add("wrong"), focus: () => range.focus() };
}

/**
 * All sliders of a vocabulary.
 *
 * @returns `element`; `get()`, an object of what is set; `set(values)`, which takes such an object and leaves the rest open;
 *     `wrong(names)`, which marks attributes and brings the first into view.
 */
export function attributeSliders(attributes, changed) {
  const groups = grouped(attributes);
  const sliders = new Map();
  const few = attributes.length <= OPEN_UP_TO && !matchMedia("(max-width: 640px)").matches;

  const parts = groups.map(({ name, members, beginning }) => {
    const tally = h("span", { class: "small" });
    const update = () => {
      const n = own.filter((one) => one.get() !== null).length;
      tally.textContent = n ? `${n} of ${own.length} set` : `${own.length} open`;
    };
    const tell = () => {
      update();
      changed();
    };
    const own = members.map((attribute) => slider(attribute, beginning, tell));
    for (const one of own) sliders.set(one.attribute.name, one);
    const lowest = () => {
      for (const one of own) if (one.get() === null) one.set(one.attribute.min, false);
      tell();
    };
    const clear = () => {
      for (const one of own) one.set(null, false);
      tell();
    };
    update();
    const words = inWords(name);
    const element = h(
      "details",
      { class: "group", open: few },
      h("summary", {}, h("span", { class: "group-name", text: words }), tally),
      h("div", { class: "group-body", role: "group", "aria-label": words }, own.map((one) => one.row)),
      h(
        "div",
        { class: "row small-row" },
        button("Set the open ones to their lowest", lowest, { look: "quiet small", "aria-label": `Set the open ones of ${words} to their lowest` }),
        button("Leave all open", clear, { look: "quiet small", "aria-label": `Leave all of ${words} open` }),
      ),
    );
    return { element, own, update };
  });

  const nothing = h("p", { class: "empty", hidden: true, text: "No attribute has this in its name." });
  const filter = h("input", { type: "search", id: freshId("filter"), placeholder: "Find an attribute", "aria-label": "Find an attribute" });
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    let found = 0;
    for (const { element, own } of parts) {
      let here = 0;
      for (const one of own) {
        const fits = inWords(one.attribute.name).toLowerCase().includes(wanted) || one.attribute.name.includes(wanted);
        one.row.hidden = !fits;
        here += fits;
      }
      element.hidden = here === 0;
      if (wanted && here) element.open = true;
      found += here;
    }
    nothing.hidden = found > 0;
  });
  const element = h("div", { class: "sliders" }, attributes.length > 12 && filter, parts.map((part) => part.element), nothing);

  return {
    element,
    get: () => Object.fromEntries([...sliders].map(([name, one]) => [name, one.get()]).filter(([, value]) => value !== null)),
    set(values) {
      for (const [name, one] of sliders) one.set(values[name] ?? null, false);
      for (const part of parts) part.update();
      changed();
    },
    wrong(names) {
      const known = names.map((name) => sliders.get(name)).filter(Boolean);
      for (const one of known) one.wrong();
      if (known.length === 0) return;
      known[0].row.closest("details").open = true;
      known[0].row.hidden = false;
      known[0].focus();
    },
    words() {
      const n = Object.keys(this.get()).length;
      return n === 0 ? "Nothing is set yet." : `${counted(n, "attribute")} of ${attributes.length} set.`;
    },
  };
}
