// The place into which a row of a table is pasted, or from which a CSV file is chosen.

import { button, field, freshId, h, setFault } from "./dom.js";
import { classesOf } from "./table.js";

const MOST_SHOWN = 1000;

/** A part that opens; `take` is called with the row that was chosen, as `classesOf` reads it. */
export function tableBox(attributes, take) {
  const text = h("textarea", { rows: 3, spellcheck: "false" });
  const file = h("input", { type: "file", id: freshId("table"), accept: ".csv,.tsv,.txt,text/csv", class: "unseen-control" });
  const choice = h("div");
  const read = () => {
    choice.replaceChildren();
    setFault(text, null);
    let rows;
    try {
      rows = classesOf(text.value, attributes);
    } catch (error) {
      setFault(text, error.message);
      text.focus();
      return;
    }
    if (rows.length === 1) take(rows[0]);
    else {
      const options = rows.slice(0, MOST_SHOWN).map((row, i) => h("option", { text: row.name || `Row ${i + 1}` }));
      const select = h("select", {}, options);
      choice.replaceChildren(
        h("div", { class: "row" }, field("Which row?", select), button("Take this row", () => take(rows[select.selectedIndex]))),
      );
      select.focus();
    }
  };
  file.addEventListener("change", async () => {
    text.value = (await file.files[0]?.text()) ?? text.value;
    file.value = "";
    read();
  });
  const hint = `A heading with the names of attributes and a row below it, or ${attributes.length} values in their order.`;
  return h(
    "details",
    { class: "group" },
    h("summary", {}, h("span", { class: "group-name", text: "From a row of a table" })),
    h(
      "div",
      { class: "group-body" },
      field("Pasted row", text, { hint }),
      h("div", { class: "row" }, button("Take it over", read), file, h("label", { for: file.id, class: "button", text: "Choose a CSV file" })),
      choice,
    ),
  );
}
