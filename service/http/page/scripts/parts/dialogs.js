// Modal questions: whether to go on, for a key, and what the camera sees.

import { button, field, freshId, h, setFault } from "./dom.js";

/** Show a dialog until it closes; resolves with what `close` was given, or null. */
function ask(title, contents, { wide = false } = {}) {
  const heading = freshId("dialog");
  const dialog = h("dialog", { "aria-labelledby": heading, class: wide ? "wide-dialog" : null }, h("h2", { id: heading, text: title }));
  return new Promise((resolve) => {
    let answer = null;
    const close = (value) => {
      answer = value;
      dialog.close();
    };
    dialog.append(...contents(close));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Whether a person wants a change that others will notice. */
export const confirmed = (title, words, action, look = "primary") =>
  ask(title, (close) => [
    h("p", { text: words }),
    h("div", { class: "row end" }, button("Cancel", () => close(null)), button(action, () => close(true), { look })),
  ]);

/** A key, or null. */
export const askKey = (again) =>
  ask("A key is needed", (close) => {
    const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true });
    const hint = "Made by `d3gzsl keys new`. It stays in the memory of this page and is forgotten when the page is closed.";
    const labelled = field("Key", input, { hint });
    const submit = (event) => {
      event.preventDefault();
      const value = input.value.trim();
      // What a header cannot hold would fail without a word.
      if (/^[\x21-\x7e]+$/.test(value)) close(value);
      else setFault(input, "Expected letters, digits and signs without spaces.");
    };
    return [
      again && h("p", { class: "fault", text: "The key that was sent is not valid here." }),
      h(
        "form",
        { on: { submit }, novalidate: true },
        labelled,
        h(
          "div",
          { class: "row end" },
          button("Cancel", () => close(null)),
          h("button", { class: "button primary", type: "submit", text: "Use this key" }),
        ),
      ),
    ].filter(Boolean);
  });

/** A photo from the camera as a file, or null. */
export async function photograph() {
  let stream = null;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const words = error.name === "NotFoundError" ? "No camera was found." : `The camera cannot be used: ${error.message}.`;
    await ask("No camera", (close) => [h("p", { text: words }), h("div", { class: "row end" }, button("Close", () => close(null)))]);
    return null;
  }
  try {
    return await ask(
      "Take a photo",
      (close) => {
        const video = h("video", { autoplay: true, playsinline: true, muted: true, "aria-label": "What the camera sees" });
        video.srcObject = stream;
        const take = () => {
          const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
          canvas.getContext("2d").drawImage(video, 0, 0);
          canvas.toBlob((blob) => close(blob && new File([blob], "photo.jpg", { type: blob.type })), "image/jpeg", 0.95);
        };
        return [
          video,
          h("div", { class: "row end" }, button("Cancel", () => close(null)), button("Take the photo", take, { look: "primary", picture: "camera" })),
        ];
      },
      { wide: true },
    );
  } finally {
    for (const track of stream.getTracks()) track.stop();
  }
}
