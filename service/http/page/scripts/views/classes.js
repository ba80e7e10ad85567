// The view of all classes: found by name, looked at, edited, removed.

import { api, ProblemError } from "../parts/api.js";
import { confirmed } from "../parts/dialogs.js";
import { announce, button, counted, h, inWords, kindMark, shareBar, short } from "../parts/dom.js";
import { imagePicker } from "../parts/images.js";
import { problemBox } from "../parts/problems.js";
import { grouped, ownPart } from "../parts/sliders.js";

const PAUSE = 200; // milliseconds without a key before the service is asked
const PAGE = 50;

export function classesView({ vocabulary, go, describe }) {
  const list = h("ul", { class: "class-list", "aria-label": "Classes" });
  const told = h("p", { class: "small", role: "status" });
  const more = button("Show more", () => load(true), { hidden: true });
  const trouble = h("div");
  const name = h("input", { type: "search", id: "class-name", placeholder: "Find by name" });
  const kind = h("select", { id: "class-kind" }, [["", "both kinds"], ["seen", "seen"], ["unseen", "unseen"]].map(([value, text]) => h("option", { value, text })));
  let cursor = null;
  let asked = 0;
  let timer = 0;

  name.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => load(false), PAUSE);
  });
  kind.addEventListener("change", () => load(false));

  async function load(further) {
    clearTimeout(timer);
    const number = ++asked;
    list.setAttribute("aria-busy", "true");
    trouble.replaceChildren();
    try {
      const page = await api.classes({ name: name.value.trim(), kind: kind.value, limit: PAGE, cursor: further ? cursor : "" });
      if (number !== asked) return; // another search was begun meanwhile
      cursor = page.next_cursor;
      const items = page.classes.map(item);
      if (further) list.append(...items);
      else list.replaceChildren(...items);
      if (further) items[0]?.querySelector("button").focus();
      const n = list.childElementCount;
      told.textContent = n === 0 ? "No class fits." : `${counted(n, "class", "classes")} shown${cursor ? ", and there are more" : ""}.`;
    } catch (error) {
      trouble.replaceChildren(problemBox(error, { again: () => load(further) }));
    }
    more.hidden = cursor === null;
    list.removeAttribute("aria-busy");
  }

  function item(one) {
    const details = h("div", { class: "class-details", hidden: true });
    const open = button("Details", () => toggle(one, open, details), { look: "small", "aria-expanded": "false", "aria-label": `Details of ${one.name}` });
    const start = () => {
      describe({ like: one.id });
      go("register");
    };
    const edit = async () => {
      try {
        describe({ edit: await api.oneClass(one.id) });
        go("register");
      } catch (error) {
        trouble.replaceChildren(problemBox(error, { again: edit }));
      }
    };
    const facts = [one.id, one.examples > 0 && counted(one.examples, "photo"), one.like && `made like ${one.like}`, one.registry_version > 0 && `since version ${one.registry_version}`];
    const row = h(
      "li",
      { class: "card class-item" },
      h(
        "div",
        { class: "row between" },
        h("div", { class: "class-name" }, h("h2", {}, one.name), kindMark(one.kind), h("p", { class: "small", text: facts.filter(Boolean).join(" · ") })),
        h(
          "div",
          { class: "row" },
          open,
          one.kind === "seen"
            ? button("Start from it", start, { look: "small quiet", "aria-label": `Start a new class from ${one.name}` })
            : [
                button("Edit", edit, { look: "small", "aria-label": `Edit ${one.name}` }),
                button("Remove", () => remove(one, row), { look: "small quiet", "aria-label": `Remove ${one.name}` }),
              ],
        ),
      ),
      details,
    );
    return row;
  }

  async function toggle(one, open, details) {
    details.hidden = !details.hidden;
    open.setAttribute("aria-expanded", String(!details.hidden));
    if (details.hidden || details.childElementCount) return;
    const parts = [
      one.description && h("p", { text: one.description }),
      one.text && h("p", {}, h("strong", { text: "Words: " }), [one.text].flat().join(" · ")),
      one.attributes?.length > 0 ? described(one) : h("p", { class: "small", text: "Described without attributes." }),
      vocabulary.max_examples > 0 && one.kind === "unseen" && photosOf(one),
    ];
    details.replaceChildren(...parts.filter(Boolean));
  }

  function described(one) {
    const place = new Map(vocabulary.attributes.map((a, i) => [a.name, i]));
    const level = (a, value) => (a.max > a.min ? (value - a.min) / (a.max - a.min) : 0);
    return h(
      "div",
      { class: "facts" },
      grouped(vocabulary.attributes).map(({ name: group, members, beginning }) =>
        h(
          "div",
          {},
          h("h3", { text: inWords(group) }),
          h(
            "dl",
            {},
            members.map((a) => {
              const value = one.attributes[place.get(a.name)];
              return h("div", {}, h("dt", { text: ownPart(a.name, beginning) }), h("dd", {}, h("span", { class: "number", text: short(value) }), shareBar(level(a, value), one.kind)));
            }),
          ),
        ),
      ),
    );
  }

  function photosOf(one) {
    const box = h("div", { class: "photos" });
    const act = async (work, words) => {
      try {
        await work();
        announce(words);
        await draw();
      } catch (error) {
        box.append(problemBox(error));
      }
    };
    const draw = async () => {
      const photos = await api.photos(one.id);
      const rows = photos.map((photo) =>
        h(
          "li",
          { class: "row between" },
          h("span", { text: `${photo.width} × ${photo.height}, added ${new Date(photo.added_at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })}` }),
          button("Take it back", () => act(() => api.removePhoto(one.id, photo.id), "The photo is taken back."), { look: "small quiet", "aria-label": `Take back the photo of ${photo.width} by ${photo.height}` }),
        ),
      );
      box.replaceChildren(
        h("h3", { text: "Photos" }),
        h("p", { class: "small", text: "The service keeps what the networks made of a photo, not its pixels." }),
        rows.length ? h("ul", { class: "plain" }, rows) : h("p", { class: "small", text: "It has none." }),
        imagePicker({ words: "More photos of it.", choose: "Add photos", compact: true, take: (files) => act(() => api.addPhotos(one.id, files), "The photos are added.") }),
      );
    };
    draw().catch((error) => box.append(problemBox(error)));
    return box;
  }

  async function remove(one, row) {
    const sure = await confirmed(`Remove ${one.name}?`, "It takes part no more from the next image on. The history can bring it back.", "Remove", "danger");
    if (!sure) return;
    try {
      await api.remove(one.id);
      announce(`${one.name} is removed.`);
      const next = row.nextElementSibling ?? row.previousElementSibling;
      row.remove();
      (next?.querySelector("button") ?? name).focus();
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      row.append(problemBox(error, { again: () => remove(one, row) }));
    }
  }

  const element = h(
    "section",
    { class: "view" },
    h("h1", { tabindex: "-1", text: "Classes" }),
    h("p", { class: "lead", text: "Seen classes come from training and stay. Unseen ones are known by their description and can change." }),
    h(
      "div",
      { class: "row search" },
      h("label", { for: "class-name", class: "unseen-words", text: "Find by name" }),
      name,
      h("label", { for: "class-kind", class: "unseen-words", text: "Kind" }),
      kind,
      button("Register a class", () => go("register"), { look: "primary", picture: "plus" }),
    ),
    told,
    trouble,
    list,
    more,
  );
  return { element, shown: () => load(false) };
}
