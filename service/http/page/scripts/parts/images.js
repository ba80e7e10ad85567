// Images of the person's: chosen, dropped, pasted or photographed, and shown small.

import { photograph } from "./dialogs.js";
import { button, freshId, h, icon } from "./dom.js";

/** An image file with an address under which the page can show it. */
export const picture = (file, more = {}) => ({ file, name: file.name || "image", url: URL.createObjectURL(file), ...more });

/** Let go of the file; nothing shows it any more. */
export const release = (image) => URL.revokeObjectURL(image.url);

const takers = new WeakMap();

/** What takes the files that are dropped onto an element, or undefined where it is in no picker. */
export const takerAt = (element) => takers.get(element.closest?.(".picker"));

// A phone that could send HEIC sends a JPEG instead where HEIC is not in this list.
let accepted = "image/*";

/** Let only files of these media types be chosen. */
export const acceptOnly = (types) => {
  if (types?.length) accepted = [...types, ...(types.includes("image/heic") ? [".heic", ".heif"] : [])].join(",");
};

/** Buttons with which images are chosen or photographed, and words that say that they can be dropped and pasted. */
export function imagePicker({ words, beneath = null, choose = "Choose images", take, compact = false }) {
  const id = freshId("files");
  const input = h("input", { type: "file", id, accept: accepted, multiple: true, class: "unseen-control" });
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = "";
  });
  const camera = navigator.mediaDevices?.getUserMedia;
  const shoot = async () => {
    const photo = await photograph();
    if (photo) take([photo]);
  };
  const element = h(
    "div",
    { class: `picker ${compact ? "compact" : ""}`.trim() },
    !compact && h("span", { class: "picker-sign" }, icon("image")),
    h("p", { text: words }),
    h(
      "div",
      { class: "row" },
      input,
      h("label", { for: id, class: `button ${compact ? "" : "primary"}`.trim(), text: choose }),
      camera && button("Take a photo", shoot, { picture: "camera" }),
    ),
    beneath && h("p", { class: "small", text: beneath }),
  );
  takers.set(element, take);
  return element;
}

/** Files that a paste or a drop brought. */
export const filesOf = (transfer) =>
  [...(transfer?.files ?? [])].filter((file) => file.type === "" || file.type.startsWith("image/") || /\.\w+$/.test(file.name));

/** A list of small pictures that can be taken away. */
export function thumbnails(images, { label, remove }) {
  return h(
    "ul",
    { class: "thumbs", "aria-label": label },
    images.map((image) =>
      h(
        "li",
        {},
        h("img", { src: image.url, alt: image.name }),
        button("", () => remove(image), { look: "round", picture: "close", "aria-label": `Remove ${image.name}` }),
      ),
    ),
  );
}
