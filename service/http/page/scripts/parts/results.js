// What an image was taken for: classes with bars, novelty, and which attributes spoke for and against.

import { counted, h, freshId, inWords, kindMark, percent, shareBar, short } from "./dom.js";

/** Classes with their probabilities, most probable first. `marked` is the id of a class to point out. */
export function ranking(predictions, { marked = null, label = "Most probable classes" } = {}) {
  return h(
    "ol",
    { class: "ranking", "aria-label": label },
    predictions.map((p, i) =>
      h(
        "li",
        { class: `${i === 0 ? "first" : ""} ${p.class_id === marked ? "marked" : ""}`.trim() },
        h("span", { class: "rank-name", text: p.name }),
        kindMark(p.kind),
        h("span", { class: "rank-share", text: percent(p.probability) }),
        shareBar(p.probability, p.kind),
      ),
    ),
  );
}

/** How little the image looks like what the model was trained on; nothing where the bundle does not say. */
export function noveltyLine(novelty) {
  if (typeof novelty !== "number") return null;
  const words =
    novelty >= 0.95
      ? "It looks like nothing the model was trained on."
      : novelty >= 0.7
        ? "It looks rather unlike what the model was trained on."
        : "It looks like what the model was trained on.";
  return h(
    "div",
    { class: "novelty" },
    h("span", { text: "Novelty" }),
    shareBar(novelty, "novelty-bar"),
    h("strong", { text: novelty.toFixed(2) }),
    h("p", { class: "small", text: words }),
  );
}

/** The attributes behind a class's score, strongest first, with their worth in log-odds. */
export function explanation(prediction) {
  const { supporting, opposing, photos } = prediction.explanation;
  const all = [...supporting.map((c) => ({ ...c, side: "for" })), ...opposing.map((c) => ({ ...c, side: "against" }))];
  const evidence =
    photos?.count > 0 &&
    h("p", { class: "small", text: `${counted(photos.count, "example photo")} of ${prediction.name} ${photos.count === 1 ? "makes" : "make"} up ${percent(photos.share)} of what the classifier knows of it; the nearest has a cosine of ${photos.nearest[0]?.cosine.toFixed(2)} to this image.` });
  if (all.length === 0) return evidence || h("p", { class: "small", text: "No attribute of this class differs from the mean." });
  const strongest = Math.max(...all.map((c) => Math.abs(c.contribution)));
  const rows = all.map((c) =>
    h(
      "tr",
      { class: c.side },
      h("th", { scope: "row", text: inWords(c.attribute) }),
      h("td", { class: "number", text: short(c.value) }),
      h("td", { class: "number", text: short(c.mean) }),
      h("td", { class: "number worth", text: `${c.contribution > 0 ? "+" : "−"}${short(Math.abs(c.contribution))}` }),
      h("td", { class: "worth-cell" }, shareBar(Math.abs(c.contribution) / strongest, c.side)),
    ),
  );
  return h(
    "div",
    { class: "table-box", tabindex: "0", role: "region", "aria-label": `Attributes for and against ${prediction.name}` },
    h(
      "table",
      {},
      h("caption", { text: `For (+) and against (−) ${prediction.name}, in log-odds` }),
      h("thead", {}, h("tr", {}, ["attribute", "class", "mean", "worth"].map((t, i) => h("th", { scope: "col", class: i ? "number" : null, text: t })), h("td", {}))),
      h("tbody", {}, rows),
    ),
    evidence,
  );
}

/** Explanations of several classes, of which one at a time is shown. */
export function explanations(predictions) {
  const explained = predictions.filter((p) => p.explanation);
  if (explained.length === 0) return h("p", { class: "small", text: "This service explains no classes." });
  const place = h("div", {}, explanation(explained[0]));
  const id = freshId("explained");
  const select = h("select", { id, on: { change: () => place.replaceChildren(explanation(explained[select.selectedIndex])) } }, explained.map((p) => h("option", { text: p.name })));
  return h(
    "div",
    { class: "explanation" },
    explained.length > 1 && h("p", { class: "row" }, h("label", { for: id, text: "Why" }), select),
    place,
  );
}
