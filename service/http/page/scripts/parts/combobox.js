// A class, found by its name as one types: a text field with a list below it, worked with arrows, Enter and Escape.

import { api } from "./api.js";
import { freshId, h, kindMark } from "./dom.js";

const PAUSE = 150; // milliseconds without a key before the service is asked
const MOST = 8;

/** A labelled field; `choose` is called with a class of GET /classes. */
export function classBox({ label, hint, choose }) {
  const [id, list] = [freshId("class"), freshId("classes")];
  const options = h("ul", { id: list, role: "listbox", "aria-label": label, class: "options", hidden: true });
  const input = h("input", {
    id,
    type: "text",
    role: "combobox",
    autocomplete: "off",
    spellcheck: "false",
    "aria-expanded": "false",
    "aria-controls": list,
    "aria-autocomplete": "list",
    "aria-describedby": `${id}-hint`,
    placeholder: "Type a name",
  });
  const said = h("span", { class: "unseen-words", role: "status" });
  let found = [];
  let at = -1;
  let timer = 0;
  let asked = 0;

  function show(open) {
    options.hidden = !open;
    input.setAttribute("aria-expanded", String(open));
    if (!open) mark(-1);
  }

  function mark(place) {
    at = place;
    [...options.children].forEach((option, i) => {
      option.setAttribute("aria-selected", String(i === at));
      if (i === at) option.scrollIntoView({ block: "nearest" });
    });
    if (at >= 0) input.setAttribute("aria-activedescendant", options.children[at].id);
    else input.removeAttribute("aria-activedescendant");
  }

  function take(one) {
    input.value = one.name;
    show(false);
    choose(one);
  }

  async function look() {
    const number = ++asked;
    let page;
    try {
      page = await api.classes({ name: input.value.trim(), limit: MOST });
    } catch (error) {
      said.textContent = error.message;
      return;
    }
    if (number !== asked) return; // a later one was asked meanwhile
    found = page.classes;
    options.replaceChildren(
      ...found.map((one) =>
        h(
          "li",
          { role: "option", id: freshId("option"), "aria-selected": "false", on: { pointerdown: (e) => e.preventDefault(), click: () => take(one) } },
          h("span", { text: one.name }),
          kindMark(one.kind),
        ),
      ),
    );
    said.textContent = found.length ? `${found.length} classes below` : "No class has this in its name.";
    show(found.length > 0 && document.activeElement === input);
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE);
  });
  input.addEventListener("focus", look);
  input.addEventListener("blur", () => {
    asked++;
    show(false);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      asked++; // an answer that is still on its way opens nothing
      if (options.hidden) return;
      show(false);
    } else if (event.key === "ArrowDown" && options.hidden) look();
    else if (event.key === "ArrowDown") mark((at + 1) % found.length);
    else if (event.key === "ArrowUp" && !options.hidden) mark((at - 1 + found.length) % found.length);
    else if (event.key === "Enter" && at >= 0) take(found[at]);
    else return;
    event.preventDefault();
  });

  const element = h(
    "div",
    { class: "field combobox" },
    h("label", { for: id, text: label }),
    h("p", { class: "hint", id: `${id}-hint`, text: hint }),
    h("div", { class: "combobox-body" }, input, options),
    said,
  );
  return { element, set: (name) => (input.value = name) };
}
