// The answers of one model as a tree with bars.

import { element, named, percent } from "./tree.js";

const SPAN = { none: "", through: "│", branch: "├", last: "└" };

// What is drawn before the name in each row: one piece for each level.
function guides(rows) {
  return rows.map((row, number) => {
    const pieces = [];
    for (let level = 1; level <= row.depth; level++) {
      const after = rows.slice(number + 1).find((other) => other.depth <= level);
      const goesOn = after !== undefined && after.depth === level;
      if (level === row.depth) pieces.push(goesOn ? "branch" : "last");
      else pieces.push(goesOn ? "through" : "none");
    }
    return pieces;
  });
}

export function drawAnswers(found, tree, onPick) {
  const list = element("ul", { class: "answers" });
  const lead = guides(found.tree);
  for (const [number, row] of found.tree.entries()) {
    const node = tree?.nodeOf.get(row.id);
    const isAnswer = row.probability !== null;
    const pieces = lead[number].map((kind) => element("i", { class: `guide ${kind}`, "data-text": SPAN[kind], "aria-hidden": "true" }));
    const name = element("button", { type: "button", class: "name" }, named(row.name));
    name.addEventListener("click", () => onPick(row.id));
    const item = element(
      "li",
      { class: isAnswer ? "row" : "row above", "data-id": row.id, hue: node === undefined ? undefined : tree.hues[node] },
      element("span", { class: "lead" }, ...pieces, name),
    );
    if (isAnswer) {
      const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("span"));
      bar.firstChild.style.width = `${100 * row.probability}%`;
      item.append(bar, element("span", { class: "number" }, percent(row.probability)));
    }
    list.append(item);
  }
  return list;
}
