// What registering a class would do, before anything is stored: neighbours, confusion, test images before and after.

import { counted, h, inWords, kindMark, percent, shareBar } from "./dom.js";
import { ranking } from "./results.js";

/** Remarks of an answer to a class: what it replaces, what it cannot be told from, what may be a mistake. */
export function remarks(answer) {
  const list = [];
  if (answer.exists) list.push(`A class with the id ${answer.id} is there already.`);
  for (const one of answer.near_duplicates ?? []) list.push(`It can hardly be told from ${one.name}.`);
  if (answer.out_of_range?.length) {
    list.push(`Beyond the range of the training classes: ${answer.out_of_range.map(inWords).join(", ")}. Is the scale right?`);
  }
  for (const words of answer.warnings ?? []) {
    const ofPhoto = words.match(/^\/examples\/(\d+) \(\w+\): (.*)/s);
    if (!ofPhoto) list.push(words);
    else if (!Array.isArray(answer.examples)) list.push(`Photo ${Number(ofPhoto[1]) + 1}: ${ofPhoto[2]}`); // a preview lists its photos
  }
  return list.length ? h("ul", { class: "remarks" }, list.map((words) => h("li", { class: "warning", text: words }))) : null;
}

/** A panel that tells what POST /classes:preview answered. `before` has the predictions of the images as things stand. */
export function previewPanel(answer, probes, before) {
  const { filled, nearest_by_attributes: alike, nearest_by_row: close, confusion } = answer;
  return h(
    "div",
    { class: "preview-parts" },
    remarks(answer),
    probes.length > 0 && block("Your test images", null, probes.map((probe, i) => beforeAfter(probe, before[i], answer.results[i], answer.id))),
    answer.examples?.length > 0 &&
      block(
        "Your photos",
        "What each would be taken for if the class did not have it.",
        h("ul", { class: "plain" }, answer.examples.map((e) => h("li", { class: "row between" }, h("span", { text: `Photo ${e.place + 1}` }), h("span", { text: e.recognised ? "✓ this class" : e.name })))),
      ),
    filled?.length > 0 && h("p", { class: "small", text: `${counted(filled.length, "attribute")} left open.` }),
    confusion?.won?.length > 0 &&
      block(
        "It would be recognised as",
        `Of ${confusion.samples} synthesised embeddings of it. The shares are optimistic; a large one of another class is a sure warning.`,
        shares(confusion.won.map((w) => ({ name: w.name, share: w.share, own: w.class_id === answer.id }))),
      ),
    confusion?.taken?.some((t) => t.taken > 0 || t.before !== t.after) &&
      block(
        "It would take from others",
        "The share of their own embeddings that described classes win today, and with this class there.",
        h("ul", { class: "plain" }, confusion.taken.map((t) => h("li", { class: "row between" }, h("span", { text: t.name }), h("span", { class: "number", text: `${percent(t.before)} → ${percent(t.after)}` })))),
      ),
    alike?.length > 0 && block("Described most alike", null, neighbours(alike, "attribute_cosine")),
    close?.length > 0 && block("Closest for the classifier", null, neighbours(close, "row_cosine")),
  );
}

const block = (title, words, ...content) => h("section", { class: "block" }, h("h3", { text: title }), words && h("p", { class: "small", text: words }), ...content);

const shares = (list) =>
  h("ul", { class: "plain shares" }, list.map((one) => h("li", { class: one.own ? "own" : null }, h("span", { text: one.own ? "this class" : one.name }), h("span", { class: "number", text: percent(one.share) }), shareBar(one.share, one.own ? "unseen" : "other"))));

const neighbours = (list, cosine) =>
  h("ul", { class: "plain" }, list.map((n) => h("li", { class: "row between" }, h("span", {}, n.name, " ", kindMark(n.kind)), h("span", { class: "number", title: "cosine", text: n[cosine]?.toFixed(2) ?? "–" }))));

/** An image with what it was taken for before, and after. */
export function beforeAfter(probe, before, after, id, [once, then] = ["Today", "With this class"]) {
  const one = (title, result) =>
    h(
      "div",
      { class: "half" },
      h("p", { class: "half-title", text: title }),
      result?.predictions
        ? ranking(result.predictions.slice(0, 3), { marked: id, label: `${title}: ${probe.name}` })
        : h("p", { class: "fault", text: result?.error?.detail ?? "No answer." }),
    );
  return h("div", { class: "before-after" }, h("img", { src: probe.url, alt: `The test image ${probe.name}` }), one(once, before), one(then, after));
}
