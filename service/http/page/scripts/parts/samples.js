// The images that the bundle brings, to try the service with: those of known classes, and those nobody described yet.

import { api } from "./api.js";
import { button, h } from "./dom.js";
import { problemBox } from "./problems.js";

/** Strips of small pictures. `take` classifies files; `begin` describes the class of one. */
export function sampleStrips({ take, begin }) {
  const element = h("div", { class: "samples" });
  const loaded = new Map(); // by name: the file, and the address under which it is shown
  let asked = 0;

  async function load(name) {
    const blob = await api.bundleExample(name);
    return { file: new File([blob], name, { type: blob.type }), url: URL.createObjectURL(blob) };
  }

  function image(name) {
    if (!loaded.has(name)) loaded.set(name, load(name));
    loaded.get(name).catch(() => loaded.delete(name)); // to be asked for again
    return loaded.get(name);
  }

  async function withFile(name, use) {
    try {
      use((await image(name)).file);
    } catch (error) {
      element.append(problemBox(error));
    }
  }

  function sample(example) {
    const { name, class_name: words, known, attributes } = example;
    const picture = h("img", { alt: "", width: 72, height: 72 });
    image(name).then(({ url }) => (picture.src = url), () => (picture.hidden = true));
    const classify = () => withFile(name, (file) => take([file]));
    const describe = () => withFile(name, (file) => begin({ name: words, attributes, probes: [file] }));
    return h(
      "li",
      {},
      h("button", { type: "button", class: "sample", "aria-label": `Classify the example ${words}`, on: { click: classify } }, picture, h("span", { text: words })),
      !known && button("Describe it", describe, { look: "quiet small", "aria-label": `Describe ${words}` }),
    );
  }

  const strip = (title, words, examples) =>
    examples.length > 0 && h("div", {}, h("h2", { text: title }), h("p", { class: "small", text: words }), h("ul", { class: "strip", "aria-label": title }, examples.map(sample)));

  /** Ask which there are and which classes are known now, and show them. */
  async function show() {
    const number = ++asked;
    try {
      const examples = await api.bundleExamples();
      if (number !== asked) return;
      const strips = [
        strip("Or try one of these", "Classes it knows: seen in training, or only described.", examples.filter((e) => e.known)),
        strip("Nobody has described these yet", "They are taken for something else until their class is registered.", examples.filter((e) => !e.known)),
      ];
      element.replaceChildren(...strips.filter(Boolean));
    } catch (error) {
      element.replaceChildren(problemBox(error, { again: show }));
    }
  }

  return { element, show };
}
