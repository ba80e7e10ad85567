// A plain script that runs before the first paint, so that the page never flashes in the other theme.
try {
  const kept = localStorage.getItem("d3gzsl-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch {
  // Storage may be forbidden; the system's theme holds then.
}
