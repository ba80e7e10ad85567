// The view of every version of the class table, newest first, and the way back to one.

import { api } from "../parts/api.js";
import { confirmed } from "../parts/dialogs.js";
import { announce, button, counted, h } from "../parts/dom.js";
import { problemBox } from "../parts/problems.js";

const PAGE = 50;
const NAMED = 6;
const classes = (n) => counted(n, "class", "classes");
const WORDS = {
  put: () => "registered or replaced",
  describe: () => "words changed",
  remove: () => "removed",
  batch: (v) => `${classes(v.changes)} at once`,
  rollback: (v) => `back to version ${v.rolled_back_to}`,
  adopt: (v) => `${classes(v.changes)} taken over from another bundle`,
};

export function historyView() {
  const list = h("ol", { class: "history", "aria-label": "Versions, newest first" });
  const trouble = h("div");
  const more = button("Show older versions", () => load(true), { hidden: true });
  const element = h(
    "section",
    { class: "view" },
    h("h1", { tabindex: "-1", text: "History" }),
    h("p", { class: "lead", text: "Every change makes a version. Going back makes a new one, so that nothing is ever lost." }),
    trouble,
    list,
    more,
  );
  let cursor = null;
  let current = 0;

  async function load(further) {
    trouble.replaceChildren();
    list.setAttribute("aria-busy", "true");
    try {
      const [page, registry] = [await api.history({ limit: PAGE, cursor: further ? cursor : "" }), await api.registry()];
      current = registry.registry_version;
      cursor = page.next_cursor;
      const items = page.versions.map(item);
      if (cursor === null) items.push(first());
      if (further) list.append(...items);
      else list.replaceChildren(...items);
      more.hidden = cursor === null;
    } catch (error) {
      trouble.replaceChildren(problemBox(error, { again: () => load(further) }));
    }
    list.removeAttribute("aria-busy");
  }

  function entry(version, what, names, time) {
    return h(
      "li",
      { class: version === current ? "now" : null },
      h("span", { class: "version", text: version }),
      h("div", { class: "what" }, h("p", {}, what), names, time),
      version === current
        ? h("span", { class: "kind unseen", text: "current" })
        : button("Return to this", () => back(version), { look: "small", "aria-label": `Return to version ${version}` }),
    );
  }

  function item(v) {
    const what = v.operation ? WORDS[v.operation]?.(v) ?? v.operation : "cannot be read any more";
    const shown = v.class_ids.slice(0, NAMED);
    const beyond = v.changes - shown.length;
    const names = shown.length > 0 && h("p", { class: "names" }, shown.map((id) => h("code", { text: id })), beyond > 0 && ` and ${beyond} more`);
    const when = v.time && h("time", { datetime: v.time, text: new Date(v.time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) });
    const time = (v.time || v.author) && h("p", { class: "small" }, when, v.time && v.author && " · ", v.author);
    return entry(v.registry_version, [what, v.damaged && h("span", { class: "warning", text: " damaged on disk" })], names, time);
  }

  const first = () => entry(0, "the bundle alone", null, null);

  async function back(version) {
    const sure = await confirmed(
      `Return to version ${version}?`,
      "Classes become what they were then, from the next image on. This makes a new version, and can itself be taken back.",
      "Return to it",
    );
    if (!sure) return;
    try {
      const registry = await api.rollback(version, current);
      announce(`The classes are those of version ${version} again. This is version ${registry.registry_version}.`);
      await load(false);
      element.querySelector("h1").focus();
    } catch (error) {
      trouble.replaceChildren(problemBox(error, { again: () => load(false) }));
      trouble.scrollIntoView({ block: "nearest" });
    }
  }

  return { element, shown: () => load(false), changed: (version) => element.hidden || version === current || load(false) };
}
