// The service over HTTP: keys, problems, waiting where it is full, and reads that see what this page changed.

import { announce } from "./dom.js";

const TRIES = 5;
let key = null; // in memory only: gone when the page is
let asking = null;
let newest = 0;

/** What went wrong, in the words of the API. */
export class ProblemError extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
    this.name = problem.type?.split(":").at(-1) ?? "unreachable";
  }
}

/** Has `ask(again)` for a key: a function that resolves with one, or with null where the person gives none. */
export const keys = {
  ask: async () => null,
  onChange: () => {},
  has: () => key !== null,
  set(value) {
    key = value || null;
    keys.onChange();
  },
};

/** Told of every version of the class table that answers bring, where it is newer than those before. */
export const versions = new EventTarget();
export const newestVersion = () => newest;

function learn(version) {
  if (!Number.isInteger(version) || version <= newest) return;
  newest = version;
  versions.dispatchEvent(new CustomEvent("newer", { detail: version }));
}

const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

/**
 * A request. `path` is relative to the page, so that a prefix before it stays.
 *
 * What is refused for want of a place is tried again when the service says. So is any other 503 to what changes nothing.
 */
export async function call(method, path, { query = {}, body, type, headers = {}, changes = false, reads = false } = {}) {
  for (let attempt = 1; ; attempt++) {
    const found = await send(method, address(path, query, reads), { body, type, headers });
    if (found.ok) return found;
    const { name, problem } = found.error;
    if (problem.status === 401 && (await freshKey(found.used))) continue;
    // Before anything was done: for want of a place, at the start, or as this client sent too much.
    const refused = name === "overloaded" || name === "not-ready" || problem.status === 429;
    if (attempt >= TRIES || !(refused || (problem.status === 503 && !changes))) throw found.error;
    const seconds = Math.min(30, Math.max(1, Number(found.headers.get("retry-after")) || 1));
    announce(`${problem.title}. Trying again in ${seconds} s (${attempt} of ${TRIES - 1}).`, seconds + 1);
    await sleep(seconds);
  }
}

function address(path, query, reads) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== null && value !== "") words.set(name, value);
  if (reads && newest > 0) words.set("min_registry_version", newest);
  return `./${path}${words.size ? `?${words}` : ""}`; // without the dot, `classes:` would be a scheme
}

async function send(method, url, { body, type, headers }) {
  const used = key;
  const sent = { ...headers, ...(used && { Authorization: `Bearer ${used}` }), ...(type && { "Content-Type": type }) };
  let answer, data;
  try {
    answer = await fetch(url, { method, body, headers: sent, cache: "no-store", credentials: "omit" });
    data = await read(answer);
  } catch {
    const detail = "No answer came. Look whether the service runs and the network is there, then try again.";
    throw new ProblemError({ title: "The service cannot be reached", detail });
  }
  if (answer.ok) {
    learn(Number(answer.headers.get("registry-version") ?? data?.registry_version ?? NaN));
    return { ok: true, data, headers: answer.headers };
  }
  const plain = { title: "The request failed", status: answer.status, detail: `The answer was ${answer.status}.` };
  return { ok: false, used, headers: answer.headers, error: new ProblemError(data?.title ? data : plain) };
}

async function read(answer) {
  const type = answer.headers.get("content-type") ?? "";
  if (answer.status === 204) return null;
  if (type.includes("json")) return JSON.parse(await answer.text());
  return answer.blob();
}

/** Ask for a key once, however many requests wait for it; true where there is another one than was used. */
async function freshKey(used) {
  if (key !== used) return key !== null;
  asking ??= keys.ask(used !== null).finally(() => (asking = null));
  const given = await asking;
  if (given) keys.set(given);
  return Boolean(given);
}

const json = (value) => ({ body: JSON.stringify(value), type: "application/json" });

/** A class as JSON, or as a form where files come with it. */
function described(document, files) {
  if (Object.values(files).every((list) => list.length === 0)) return json(document);
  const form = new FormData();
  form.set("class", JSON.stringify(document));
  for (const [name, list] of Object.entries(files)) for (const file of list) form.append(name, file, file.name);
  return { body: form };
}

const classPath = (id) => `classes/${encodeURIComponent(id)}`;
const matching = (etag) => (etag ? { "If-Match": etag } : {});

/** Every endpoint that the page uses. */
export const api = {
  version: async () => (await call("GET", "version")).data,
  registry: async () => (await call("GET", "registry", { reads: true })).data,
  attributes: async () => (await call("GET", "attributes")).data,
  bundleExamples: async () => (await call("GET", "bundle/examples", { reads: true })).data.examples,
  bundleExample: async (name) => (await call("GET", `bundle/examples/${encodeURIComponent(name)}`)).data,
  async classify(image, query = {}) {
    const type = image.type.startsWith("image/") ? image.type : "application/octet-stream";
    return (await call("POST", "classify", { query, body: image, type, reads: true })).data;
  },
  classes: async (query) => (await call("GET", "classes", { query, reads: true })).data,
  async oneClass(id) {
    const { data, headers } = await call("GET", classPath(id), { reads: true });
    return { ...data, etag: headers.get("etag") };
  },
  preview: async (document, files) =>
    (await call("POST", "classes:preview", { ...described(document, files), reads: true })).data,
  create: async (document, files) => (await call("POST", "classes", { ...described(document, files), changes: true })).data,
  replace: async (id, document, files, etag) =>
    (await call("PUT", classPath(id), { ...described(document, files), headers: matching(etag), changes: true })).data,
  reword: async (id, words, etag) =>
    (await call("PATCH", classPath(id), { ...json(words), headers: matching(etag), changes: true })).data,
  remove: (id, etag) => call("DELETE", classPath(id), { headers: matching(etag), changes: true }),
  photos: async (id) => (await call("GET", `${classPath(id)}/examples`, { reads: true })).data.examples,
  addPhotos(id, files) {
    const form = new FormData();
    for (const file of files) form.append("images", file, file.name);
    return call("POST", `${classPath(id)}/examples`, { body: form, changes: true });
  },
  removePhoto: (id, photo) => call("DELETE", `${classPath(id)}/examples/${encodeURIComponent(photo)}`, { changes: true }),
  history: async (query) => (await call("GET", "registry/versions", { query: { order: "newest", ...query }, reads: true })).data,
  rollback: async (version, current) =>
    (await call("POST", "registry:rollback", { ...json({ version }), headers: { "If-Match": `"${current}"` }, changes: true })).data,
};
