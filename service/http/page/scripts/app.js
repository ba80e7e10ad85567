// The page as a whole: views by the address, theme, key, and whose turn it is for pasted and dropped images.

import { api, keys, newestVersion, versions } from "./parts/api.js";
import { askKey } from "./parts/dialogs.js";
import { announce, button, h, icon } from "./parts/dom.js";
import { acceptOnly, filesOf, takerAt } from "./parts/images.js";
import { problemBox } from "./parts/problems.js";
import { classesView } from "./views/classes.js";
import { classifyView } from "./views/classify.js";
import { historyView } from "./views/history.js";
import { registerView } from "./views/register.js";

const TITLES = { classify: "Classify", register: "Register", classes: "Classes", history: "History" };
const main = document.getElementById("main");
const root = document.documentElement;
const made = {};
let current = null;

function themeButton() {
  const dark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const toggle = button("", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("d3gzsl-theme", root.dataset.theme);
    } catch {
      // Storage may be forbidden; the choice then holds until the page is closed.
    }
    show();
  }, { look: "round" });
  const show = () => {
    toggle.replaceChildren(icon(dark() ? "sun" : "moon"));
    toggle.setAttribute("aria-label", dark() ? "Light theme" : "Dark theme");
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
  return toggle;
}

function keyButton() {
  const forget = button("Forget the key", () => {
    keys.set(null);
    announce("The key is forgotten.");
  }, { look: "quiet small", picture: "key", hidden: true });
  keys.onChange = () => (forget.hidden = !keys.has());
  return forget;
}

const place = () => (location.hash.slice(1) in TITLES ? location.hash.slice(1) : "classify");

function show({ focus = true } = {}) {
  const name = place();
  for (const link of document.querySelectorAll("#views a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[name]} · d3gzsl`;
  if (current !== name) {
    for (const [key, view] of Object.entries(made)) view.element.hidden = key !== name;
    current = name;
    made[name].shown?.();
    if (focus) {
      scrollTo(0, 0);
      made[name].element.querySelector("h1").focus({ preventScroll: true });
    }
  }
}

function takeImages() {
  const take = (transfer, onto) => {
    const files = filesOf(transfer);
    const taker = takerAt(onto) ?? made[current]?.take;
    if (files.length) taker?.(files);
    return files.length > 0;
  };
  document.addEventListener("paste", (event) => take(event.clipboardData, event.target) && event.preventDefault());
  let depth = 0;
  const over = (change) => {
    depth = Math.max(0, depth + change);
    root.classList.toggle("dragging", depth > 0);
  };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    if (!take(event.dataTransfer, event.target)) announce("There was no image in what was dropped.");
  });
}

function foot(version) {
  document.getElementById("foot").replaceChildren(
    h("p", {}, `d3gzsl ${version.version} · bundle ${version.bundle.slice(0, 8)} · ${version.backbone}`),
    h("p", {}, h("a", { href: "docs", text: "API" }), " · ", h("a", { href: "openapi.json", text: "OpenAPI" })),
  );
}

async function start() {
  const loading = h("p", { class: "loading", role: "status", text: "Loading the classes" });
  main.replaceChildren(loading);
  try {
    const [version, vocabulary, registry] = [await api.version(), await api.attributes(), await api.registry()];
    acceptOnly(version.image_types);
    const go = (name) => (location.hash = `#${name}`);
    const shared = { vocabulary, registry, go, describe: (start) => made.register.begin(start) };
    made.classify = classifyView(shared);
    made.register = registerView(shared);
    made.classes = classesView(shared);
    made.history = historyView(shared);
    for (const view of Object.values(made)) view.element.hidden = true;
    main.replaceChildren(...Object.values(made).map((view) => view.element));
    foot(version);
    show({ focus: false });
    made.classify.count(registry.classes);
  } catch (error) {
    main.replaceChildren(h("h1", { text: "The service does not answer as it should" }), problemBox(error, { again: start }));
  }
}

document.getElementById("views").append(
  ...Object.entries(TITLES).map(([name, title]) => h("a", { href: `#${name}`, text: title })),
);
document.getElementById("tools").append(keyButton(), themeButton());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // its address would name no view
  main.focus();
});
keys.ask = askKey;
versions.addEventListener("newer", async () => {
  if (!current) return;
  try {
    const registry = await api.registry();
    made.classify.count(registry.classes);
    made.history.changed(newestVersion());
  } catch {
    // The next look at it will say what is wrong.
  }
});
addEventListener("hashchange", () => current && show());
takeImages();
start();
