// A row of a table as the description of a class: pasted from a spreadsheet, or chosen as a CSV file.

const NAME_COLUMNS = ["class", "name"];
const WORD_COLUMNS = ["id", "description", "split", ...NAME_COLUMNS];

/** The rows of CSV, semicolon- or tab-separated text, with quotes. */
export function rowsOf(text) {
  const first = text.slice(0, text.search(/\n|$/));
  const separator = ["\t", ";", ","].find((sign) => first.includes(sign)) ?? ",";
  const rows = [[]];
  let cell = "";
  let quoted = false;
  const source = text.replace(/^\uFEFF/, "").replace(/\r\n?/g, "\n");
  for (let i = 0; i < source.length; i++) {
    const sign = source[i];
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (source[i + 1] === '"') cell += source[++i];
      else quoted = false;
    } else if (sign === '"' && cell.trim() === "") [cell, quoted] = ["", true];
    else if (sign === separator) {
      rows.at(-1).push(cell.trim());
      cell = "";
    } else if (sign === "\n") {
      rows.at(-1).push(cell.trim());
      cell = "";
      rows.push([]);
    } else cell += sign;
  }
  rows.at(-1).push(cell.trim());
  return { separator, rows: rows.filter((row) => row.some((value) => value !== "")) };
}

/**
 * The classes that a table describes.
 *
 * @returns list of `{name, description, values}`, where `values` has numbers by attribute. A table without a heading is one
 *     row with a number for each attribute in their order, with a name before them if wanted.
 * @throws Error with words for the person where it cannot be read.
 */
export function classesOf(text, attributes) {
  const { separator, rows } = rowsOf(text);
  if (rows.length === 0) throw new Error("There is no row in it.");
  const number = (word, where) => {
    const value = Number(separator === "," ? word : word.replace(",", "."));
    if (word === "" || !Number.isFinite(value)) throw new Error(`${where}: expected a number, got "${word.slice(0, 40)}".`);
    return value;
  };
  const names = attributes.map((attribute) => attribute.name);
  const head = rows[0].map((word) => word.normalize("NFC"));
  if (!head.some((word) => names.includes(word))) return rows.map((row, i) => bare(row, i, names, number));
  const unknown = head.filter((word) => !names.includes(word) && !WORD_COLUMNS.includes(word.toLowerCase()));
  if (unknown.length) throw new Error(`The bundle has no attribute "${unknown[0]}". Columns are attributes, class and description.`);
  const classes = rows.slice(1).map((row, i) => {
    const found = { name: "", description: "", values: {} };
    head.forEach((column, j) => {
      const word = row[j] ?? "";
      if (names.includes(column)) {
        if (word !== "") found.values[column] = number(word, `Row ${i + 2}, ${column}`);
      } else if (NAME_COLUMNS.includes(column.toLowerCase())) found.name = word;
      else if (column.toLowerCase() === "description") found.description = word;
    });
    return found;
  });
  if (classes.length === 0) throw new Error("There is a heading and no row below it.");
  return classes;
}

function bare(row, i, names, number) {
  const named = row.length === names.length + 1;
  const numbers = named ? row.slice(1) : row;
  if (numbers.length !== names.length) {
    throw new Error(`Row ${i + 1} has ${row.length} values. Expected ${names.length}, one for each attribute, or a heading with their names.`);
  }
  return {
    name: named ? row[0] : "",
    description: "",
    values: Object.fromEntries(names.map((name, j) => [name, number(numbers[j], `Row ${i + 1}, ${name}`)])),
  };
}
