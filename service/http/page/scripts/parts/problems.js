// What went wrong, shown in the words of the API, with the field that each fault is about.

import { button, h } from "./dom.js";
import { keys, ProblemError } from "./api.js";

/** The parts of a JSON pointer. */
export const pointerParts = (pointer) =>
  pointer.split("/").slice(1).map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));

const where = (pointer) => pointerParts(pointer).join(" › ");

/** A box with a problem, read aloud at once. `again` is what a button would try. */
export function problemBox(error, { again = null } = {}) {
  if (!(error instanceof ProblemError)) throw error; // a fault of the page: for the console
  const { title, detail, errors = [], request_id: request, status } = error.problem;
  const others = async () => {
    const given = await keys.ask(false);
    if (given) {
      keys.set(given);
      again?.();
    }
  };
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("p", { class: "problem-title", text: title }),
    detail && h("p", { text: detail }),
    errors.length > 0 &&
      h("ul", {}, errors.map((e) => h("li", {}, e.pointer && h("strong", { text: `${where(e.pointer)}: ` }), e.detail))),
    request && h("p", { class: "small", text: `Request ${request}` }),
    again && h("p", { class: "row" }, button("Try again", again), status === 403 && button("Use another key", others)),
  );
}
