// The field for an expression: completion while typing, and what is wrong, in its place.

import { element, named } from "./tree.js";

const MOST = 8;
const FUNCTIONS = ["under", "above", "cut", "partition"];
const TOKEN = /[^\s()&|!<>="]+(?:\s+[^\s()&|!<>="]+)*\s?$/u;

export class Expression {
  constructor({ input, offers, verdict }, onChange) {
    Object.assign(this, { input, offers, verdict, onChange });
    this.keywords = [];
    this.chosen = -1;
    input.addEventListener("input", () => {
      this.#offer();
      onChange(input.value);
    });
    input.addEventListener("keydown", (event) => this.#key(event));
    input.addEventListener("blur", () => this.#close());
    offers.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the field keeps the focus
      const offer = event.target.closest("[role=option]");
      if (offer) this.#take([...offers.children].indexOf(offer));
    });
  }

  learn(keywords, tree) {
    this.keywords = keywords;
    this.tree = tree;
    this.folded = tree.names.map((name) => name.toLocaleLowerCase());
  }

  // Mark the place of an error, or show what the expression selects.
  tell(text, expression, found) {
    const { error } = found;
    this.input.setAttribute("aria-invalid", error ? "true" : "false");
    if (!error) {
      const count = `${found.num_classes.toLocaleString("en")} ${found.num_classes === 1 ? "class" : "classes"}`;
      const more = found.num_classes > found.examples.length ? " …" : "";
      this.verdict.replaceChildren(text(count), element("span", { class: "soft" }, ": ", named(found.examples.join(", ") + more)));
      return;
    }
    const lines = [element("span", { class: "wrong" }, error.message)];
    if (error.position !== undefined) {
      const rest = expression.slice(error.position);
      const wrong = /^(?:"[^"]*"?|[()&|!<>=]|[^()&|!<>="]+)/u.exec(rest)?.[0].trimEnd() || " ";
      const mark = element("mark", {}, wrong);
      lines.unshift(element("code", { class: "place" }, expression.slice(0, error.position), mark, rest.slice(wrong.length)));
    }
    this.verdict.replaceChildren(...lines);
  }

  #offer() {
    const before = this.input.value.slice(0, this.input.selectionStart);
    const token = TOKEN.exec(before)?.[0] ?? "";
    const typed = token.toLocaleLowerCase();
    this.found = [];
    if (!typed.trim() || !this.tree) return this.#close();
    this.from = before.length - token.length;
    const isInside = /\b(?:under|above)\(\s*$/u.test(before.slice(0, this.from));
    const starts = [];
    const words = [];
    if (!isInside) {
      for (const word of this.keywords) {
        if (word.startsWith(typed)) starts.push({ text: FUNCTIONS.includes(word) ? `${word}(` : word, about: "keyword" });
      }
    }
    for (const [node, name] of this.folded.entries()) {
      const list = name.startsWith(typed) ? starts : name.includes(` ${typed}`) ? words : null;
      if (list === null || list.length > 400) continue;
      const quoted = /[()&|!<>="]/u.test(name) ? `"${this.tree.names[node]}"` : this.tree.names[node];
      const isClass = this.tree.labels[node] >= 0;
      if (isInside || isClass) list.push({ text: isInside ? `${quoted})` : quoted, about: this.#about(node, isInside), rank: isInside ? -this.tree.sizes[node] : name.length });
      if (!isInside && this.tree.children[node].length) list.push({ text: `under(${quoted})`, about: this.#about(node, true), rank: name.length + 1 });
    }
    const ranked = (a, b) => (a.rank ?? -Infinity) - (b.rank ?? -Infinity) || 0;
    this.found = [...starts.sort(ranked), ...words.sort(ranked)].slice(0, MOST);
    this.offers.replaceChildren(
      ...this.found.map((offer, number) =>
        element("li", { role: "option", id: `offer-${number}`, "aria-selected": "false" }, named(offer.text), element("span", { class: "soft" }, offer.about)),
      ),
    );
    this.#choose(-1);
    this.offers.hidden = !this.found.length;
    this.input.setAttribute("aria-expanded", String(!this.offers.hidden));
  }

  #about(node, isBelow) {
    if (!isBelow) return "class";
    const size = this.tree.sizes[node];
    return `${size.toLocaleString("en")} ${size === 1 ? "class" : "classes"}`;
  }

  #choose(number) {
    this.chosen = number;
    for (const [place, offer] of [...this.offers.children].entries()) offer.setAttribute("aria-selected", String(place === number));
    if (number >= 0) {
      this.input.setAttribute("aria-activedescendant", `offer-${number}`);
      this.offers.children[number].scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  #take(number) {
    const { input } = this;
    const after = input.value.slice(input.selectionStart);
    const before = input.value.slice(0, this.from) + this.found[number].text;
    input.value = before + (before.endsWith(")") && after.startsWith(")") ? after.slice(1) : after);
    input.setSelectionRange(before.length, before.length);
    this.#close();
    this.onChange(input.value);
  }

  #close() {
    this.offers.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.#choose(-1);
  }

  #key(event) {
    if (this.offers.hidden) return;
    const size = this.found.length;
    const keys = {
      ArrowDown: () => this.#choose((this.chosen + 1) % size),
      ArrowUp: () => this.#choose((this.chosen - 1 + size) % size),
      Escape: () => this.#close(),
      Enter: () => this.chosen >= 0 && this.#take(this.chosen),
      Tab: () => this.chosen >= 0 && this.#take(this.chosen),
    };
    if (!(event.key in keys)) return;
    if (event.key !== "Tab" || this.chosen >= 0) event.preventDefault();
    keys[event.key]();
  }
}
