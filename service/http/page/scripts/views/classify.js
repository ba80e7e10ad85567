// The view that classifies: images in, ranked classes out, again after the class table has changed.

import { api, newestVersion, versions } from "../parts/api.js";
import { button, counted, h, percent, tell } from "../parts/dom.js";
import { imagePicker, picture, release } from "../parts/images.js";
import { problemBox } from "../parts/problems.js";
import { explanations, noveltyLine, ranking } from "../parts/results.js";
import { sampleStrips } from "../parts/samples.js";

const TOP = 5;
const AT_ONCE = 3; // requests; the images beyond wait here, not in the service

/** Runs at most AT_ONCE tasks at a time, in their order. */
function lane() {
  const waiting = [];
  let running = 0;
  const next = () => {
    if (running >= AT_ONCE || waiting.length === 0) return;
    running++;
    waiting.shift()().finally(() => {
      running--;
      next();
    });
  };
  return (task) => {
    waiting.push(task);
    next();
  };
}

export function classifyView({ go, describe }) {
  const cards = h("div", { class: "cards" });
  const lead = h("p", { class: "lead" });
  const scope = h(
    "select",
    { id: "scope", on: { change: () => again(true) } },
    [["all", "all classes"], ["seen", "seen classes only"], ["unseen", "unseen classes only"]].map(([value, text]) => h("option", { value, text })),
  );
  const clear = button("Remove all", () => {
    for (const image of shown) release(image);
    shown.length = 0;
    draw();
  }, { look: "quiet" });
  const tools = h("div", { class: "row between", hidden: true }, h("h2", { text: "Answers" }), h("div", { class: "row" }, h("label", { for: "scope", text: "Among" }), scope, clear));
  const shown = [];
  const run = lane();

  function draw() {
    cards.replaceChildren(...shown.map((image) => image.card));
    tools.hidden = shown.length === 0;
  }

  function remove(image) {
    shown.splice(shown.indexOf(image), 1);
    release(image);
    draw();
    (cards.querySelector("button") ?? element.querySelector("input")).focus();
  }

  function take(files) {
    const images = files.map((file) => picture(file, { card: h("article", { class: "card result" }) }));
    shown.unshift(...images);
    draw();
    tools.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    for (const image of images) ask(image);
  }

  function again(all) {
    for (const image of shown) {
      if (!all && image.version === newestVersion()) continue;
      image.before = all ? null : image.best;
      ask(image);
    }
  }

  function ask(image) {
    image.card.setAttribute("aria-busy", "true");
    image.card.setAttribute("aria-label", image.name);
    fill(image, h("p", { class: "loading", role: "status", text: "Looking at it" }));
    run(async () => {
      if (!shown.includes(image)) return;
      try {
        const answer = await api.classify(image.file, { top_k: TOP, scope: scope.value });
        image.version = answer.registry_version;
        const [result] = answer.results;
        image.best = result.predictions[0];
        fill(image, ...answered(image, result));
        tell(`${image.name}: ${image.best.name}, ${percent(image.best.probability)}`);
      } catch (error) {
        image.best = null;
        fill(image, problemBox(error, { again: () => ask(image) }));
      }
      image.card.removeAttribute("aria-busy");
    });
  }

  function fill(image, content, below = []) {
    image.card.replaceChildren(
      h("div", { class: "result-image" }, h("img", { src: image.url, alt: `The image ${image.name}` })),
      h(
        "div",
        { class: "result-body" },
        h("div", { class: "row between" }, h("h3", { text: image.name }), button("", () => remove(image), { look: "round", picture: "close", "aria-label": `Remove ${image.name}` })),
        content,
      ),
      ...[below].flat(),
    );
  }

  function answered(image, result) {
    const { before, best } = image;
    const moved = before && before.class_id !== best.class_id;
    const why = h("div", { class: "why", hidden: true });
    const asks = button("Why?", () => toggle(image, asks, why), { "aria-expanded": "false", "aria-label": `Why? ${image.name}` });
    const start = () => {
      describe({ like: best.class_id, probes: [image.file] });
      go("register");
    };
    const content = [
      moved && h("p", { class: "moved" }, `Before the change: ${before.name}, ${percent(before.probability)}`),
      ranking(result.predictions, { marked: moved ? best.class_id : null }),
      noveltyLine(result.novelty),
      (result.warnings ?? []).map((words) => h("p", { class: "warning", text: words })),
      h("div", { class: "row" }, asks, button("None of these? Describe it", start, { look: "quiet", "aria-label": `None of these? Describe ${image.name}` })),
    ];
    return [content, why];
  }

  async function toggle(image, asks, why) {
    const open = why.hidden;
    why.hidden = !open;
    asks.setAttribute("aria-expanded", String(open));
    if (!open || why.childElementCount) return;
    why.replaceChildren(h("p", { class: "loading", role: "status", text: "Weighing the attributes" }));
    try {
      const answer = await api.classify(image.file, { top_k: TOP, scope: scope.value, explain: "attributes" });
      why.replaceChildren(explanations(answer.results[0].predictions));
    } catch (error) {
      why.replaceChildren(problemBox(error, { again: () => { why.replaceChildren(); why.hidden = true; toggle(image, asks, why); } }));
    }
  }

  const { element: samples, show: showSamples } = sampleStrips({
    take,
    begin(start) {
      describe(start);
      go("register");
    },
  });
  const element = h(
    "section",
    { class: "view" },
    h("h1", { tabindex: "-1", text: "What is in the picture?" }),
    lead,
    imagePicker({ words: "Drop images anywhere, paste them, or", beneath: "Nothing leaves this service, and no image is kept.", take }),
    tools,
    cards,
    samples,
  );
  versions.addEventListener("newer", () => element.hidden || renew());

  function renew() {
    again(false);
    showSamples();
  }

  return {
    element,
    take,
    shown: renew,
    count({ seen, unseen }) {
      lead.textContent = `${counted(seen + unseen, "class", "classes")}: ${seen.toLocaleString("en")} seen in training, ${unseen.toLocaleString("en")} known by description only.`;
    },
  };
}
