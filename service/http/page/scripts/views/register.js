// The view that registers a class, or edits one: described, previewed, stored, and seen to win.

import { api, ProblemError } from "../parts/api.js";
import { classBox } from "../parts/combobox.js";
import { announce, button, field, h, setFault, tell } from "../parts/dom.js";
import { imagePicker, picture, release, thumbnails } from "../parts/images.js";
import { beforeAfter, previewPanel, remarks } from "../parts/preview.js";
import { pointerParts, problemBox } from "../parts/problems.js";
import { attributeSliders } from "../parts/sliders.js";
import { tableBox } from "../parts/table-box.js";

const LONGEST_LIST = 500; // of example photos or test images; the service has limits of its own

/** Images that the person gathered, with their small pictures. */
function gathered(label, words, choose, changed) {
  const images = [];
  const place = h("div");
  const draw = () => {
    place.replaceChildren(...(images.length ? [thumbnails(images, { label, remove })] : []));
    changed?.();
  };
  const add = (files) => {
    images.push(...files.slice(0, LONGEST_LIST - images.length).map((file) => picture(file)));
    draw();
  };
  const remove = (image) => {
    images.splice(images.indexOf(image), 1);
    release(image);
    draw();
    picker.querySelector("input").focus();
  };
  const picker = imagePicker({ words, choose, take: add, compact: true });
  return {
    images,
    element: h("div", {}, picker, place),
    add,
    files: () => images.map((image) => image.file),
    clear() {
      images.forEach(release);
      images.length = 0;
      draw();
    },
  };
}

export function registerView({ vocabulary, go }) {
  const { attributes, max_examples: mostPhotos = 0 } = vocabulary;
  let editing = null;

  // What describes the class.
  const name = h("input", { type: "text", autocomplete: "off", maxlength: 200, required: true });
  const id = h("input", { type: "text", autocomplete: "off", spellcheck: "false", maxlength: 64 });
  const description = h("textarea", { rows: 2, maxlength: 4000 });
  const tally = h("span", { class: "small" });
  const sliders = attributeSliders(attributes, () => (tally.textContent = sliders.words()));
  tally.textContent = sliders.words();
  const words = vocabulary.text ? h("textarea", { rows: 3 }) : null;
  const photos = mostPhotos > 0 ? gathered("Photos of the class", "One photo often helps more than the best description.", "Choose photos") : null;
  const probes = gathered("Test images", "Images to classify before and after. They are not stored.", "Choose test images");

  const like = classBox({
    label: "Start from a class",
    hint: "Takes its attributes; then change what is different.",
    choose(one) {
      sliders.set(Object.fromEntries(attributes.map((a, i) => [a.name, one.attributes?.[i] ?? null])));
      announce(`Started from ${one.name}.`);
    },
  });
  const table = tableBox(attributes, (row) => {
    sliders.set(row.values);
    if (row.name) name.value = row.name;
    if (row.description) description.value = row.description;
    announce("The row is taken over.");
  });

  const heading = h("h1", { tabindex: "-1" });
  const lead = h("p", { class: "lead" });
  const notice = h("p", { class: "warning", hidden: true });
  const idField = field("Id", id, { hint: "Small letters, digits and . _ - only. Left empty, it is made from the name." });
  const faults = h("div");
  const submit = h("button", { type: "submit", form: "describe", class: "button primary" });
  const reset = button("Start anew", () => begin({}), { look: "quiet" });
  const panel = h("div", { class: "panel-body" });
  const look = button("Preview", preview);

  const form = h(
    "form",
    { novalidate: true, id: "describe", class: "describe", on: { submit: (event) => { event.preventDefault(); store(); } } },
    notice,
    field("Name", name),
    photos && part("Photos", null, photos.element),
    words && part("Words", null, field("What it looks like", words, { hint: `Sentences as a caption would have them, one on each line, each of at most ${vocabulary.text.max_tokens} tokens.` })),
    attributes.length > 0 &&
      part("Attributes", h("div", { class: "row" }, tally, button("Leave all open", () => sliders.set({}), { look: "quiet small", "aria-label": "Leave all attributes open" })), h("div", { class: "starts" }, like.element, table), sliders.element),
    h("details", { class: "group" }, h("summary", {}, h("span", { class: "group-name", text: "Id and notes" })), h("div", { class: "group-body" }, idField, field("Notes", description, { hint: "For people; the classifier does not read them." }))),
  );
  const aside = h(
    "aside",
    { class: "card panel", "aria-labelledby": "preview-title" },
    h("h2", { id: "preview-title", text: "Preview, then register" }),
    probes.element,
    h("div", { class: "row" }, look, submit, reset),
    faults,
    panel,
  );
  const done = h("div", { class: "card done", hidden: true });
  const columns = h("div", { class: "columns" }, form, aside);
  const element = h("section", { class: "view" }, heading, lead, done, columns);
  begin({});

  function part(title, beside, ...content) {
    return h("section", { class: "part" }, h("div", { class: "row between" }, h("h2", { text: title }), beside), ...content);
  }

  function emptyPanel() {
    panel.replaceChildren(
      h("p", { class: "empty", text: "Says what the class would be near to, what it would be confused with, and how your test images would change. Nothing is stored." }),
    );
  }

  /** Begin with what is given: `name`, `attributes` in order, `like` (id of a class), `probes` (files), `edit` (a class). */
  async function begin(start) {
    editing = start.edit ?? null;
    heading.textContent = editing ? `Edit ${editing.name}` : "Register a class";
    lead.textContent = editing
      ? "What you change holds from the next image on. Its former state stays in the history."
      : "Describe what nobody trained it on. From the next image on, it takes part.";
    submit.textContent = editing ? "Save" : "Register";
    name.value = editing?.name ?? start.name ?? "";
    id.value = editing?.id ?? "";
    id.readOnly = editing !== null;
    description.value = editing?.description ?? "";
    if (words) words.value = [editing?.text ?? []].flat().join("\n");
    const values = editing?.attributes ?? start.attributes ?? [];
    sliders.set(Object.fromEntries(attributes.map((a, i) => [a.name, values[i] ?? null])));
    photos?.clear();
    probes.clear();
    if (start.probes) probes.add(start.probes);
    notice.hidden = !(editing?.examples > 0);
    notice.textContent = notice.hidden ? "" : "To change attributes replaces the class together with its photos: choose the photos again. Name and notes change without that.";
    like.set("");
    columns.hidden = false;
    done.hidden = true;
    clearFaults();
    emptyPanel();
    if (start.like) await from(start.like);
  }

  async function from(classId) {
    try {
      const one = await api.oneClass(classId);
      like.set(one.name);
      sliders.set(Object.fromEntries(attributes.map((a, i) => [a.name, one.attributes?.[i] ?? null])));
    } catch (error) {
      faults.replaceChildren(problemBox(error));
    }
  }

  function clearFaults() {
    faults.replaceChildren();
    if (!element.isConnected) return;
    for (const control of [name, id, description, words].filter(Boolean)) setFault(control, null);
  }

  function documentNow() {
    const document = { name: name.value.trim(), description: description.value.trim() };
    const [values, lines] = [sliders.get(), words?.value.split("\n").map((l) => l.trim()).filter(Boolean) ?? []];
    if (id.value.trim() && !editing) document.id = id.value.trim();
    if (Object.keys(values).length) document.attributes = values;
    if (lines.length) document.text = lines.length === 1 ? lines[0] : lines;
    return document;
  }

  function complete(document) {
    clearFaults();
    if (document.name) return true;
    setFault(name, "Give the class a name.");
    name.focus();
    return false;
  }

  /** Show what is wrong where it is wrong, and in words above the buttons. */
  function failed(error, again) {
    if (!(error instanceof ProblemError)) throw error;
    faults.replaceChildren(problemBox(error, { again: error.problem.status === 503 || error.problem.status === 403 || !error.problem.status ? again : null }));
    const wrong = [];
    for (const { pointer, detail } of error.problem.errors ?? []) {
      const [top, second] = pointerParts(pointer);
      if (top === "attributes" && second) wrong.push(second);
      const control = { name, id, description, text: words }[top];
      if (control) setFault(control, detail);
    }
    sliders.wrong(wrong);
    form.querySelector("[aria-invalid]")?.focus();
    faults.scrollIntoView({ block: "nearest" });
  }

  const busy = (on) => {
    for (const one of [submit, look]) one.disabled = on;
    panel.setAttribute("aria-busy", String(on));
  };

  const before = () =>
    Promise.all(probes.files().map((file) => api.classify(file, { top_k: 5 }).then((a) => a.results[0], (error) => ({ error: error.problem ?? { detail: error.message } }))));

  async function preview() {
    const document = documentNow();
    if (!complete(document)) return;
    if (editing) document.id = editing.id;
    busy(true);
    panel.replaceChildren(h("p", { class: "loading", role: "status", text: "Trying the class out" }));
    try {
      const files = { images: probes.files(), examples: photos?.files() ?? [] };
      const answer = await api.preview(document, files);
      const today = answer.results.map((result) => ({ ...result, predictions: result.before }));
      panel.replaceChildren(previewPanel(answer, probes.images, today));
      tell("The preview is there.");
    } catch (error) {
      emptyPanel();
      failed(error, preview);
    }
    busy(false);
  }

  /** Whether an edit changes words only, so that weights and photos stay. */
  function onlyWords(document) {
    const same = attributes.every((a, i) => document.attributes?.[a.name] === (editing.attributes?.[i] ?? undefined));
    const text = [document.text ?? []].flat().join("\n") === [editing.text ?? []].flat().join("\n");
    return same && text && !photos?.images.length;
  }

  async function store() {
    const document = documentNow();
    if (!complete(document)) return;
    busy(true);
    const today = await before();
    try {
      const files = { examples: photos?.files() ?? [] };
      const answer = !editing
        ? await api.create(document, files)
        : onlyWords(document)
          ? await api.reword(editing.id, { name: document.name, description: document.description }, editing.etag)
          : await api.replace(editing.id, document, files, editing.etag);
      await stored(answer, today);
    } catch (error) {
      failed(error, store);
    }
    busy(false);
  }

  async function stored(answer, today) {
    const now = await before();
    const undo = button("Remove it again", async () => {
      try {
        await api.remove(answer.id);
        announce(`${answer.name} is removed.`);
        begin({});
      } catch (error) {
        done.append(problemBox(error));
      }
    }, { look: "quiet" });
    const title = h("h2", { tabindex: "-1", text: editing ? `${answer.name} is saved` : `${answer.name} is registered` });
    done.replaceChildren(
      title,
      h("p", { text: `It takes part from now on. Version ${answer.registry_version} of the class table.` }),
      ...[remarks(answer)].filter(Boolean),
      ...probes.images.map((probe, i) => beforeAfter(probe, today[i], now[i], answer.id, ["Before", "Now"])),
      h("div", { class: "row" }, button("Classify again", () => go("classify"), { look: "primary" }), button("Register another", () => begin({})), editing === null && undo),
    );
    columns.hidden = true;
    done.hidden = false;
    title.focus();
  }

  return { element, begin, take: probes.add };
}
