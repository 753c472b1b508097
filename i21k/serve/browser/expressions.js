// Subsets of a class list, chosen by an expression, as i21k/wordnet/subsets.py parses them.

import { Refused } from "./refused.js";

const TOKEN = /\s*(?:"(?<quoted>[^"]*)"|(?<sign>[()&|!]|[<>]=?|=)|(?<word>[^\s()&|!<>="]+(?:\s+[^\s()&|!<>="]+)*)|(?<end>$))/uy;
const COMPARE = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "=": (a, b) => a === b,
};
const MAX_DEPTH = 50;
const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/iu;

const wrong = (message, position) => new Refused({ code: "bad_expression", message, position });
const fold = (text) => text.toLowerCase();
const count = (number) => number.toLocaleString("en");

// Which classes of the hierarchy an expression chooses: an array with 1 or 0 for each label.
export function select(expression, hierarchy, names) {
  const chosen = new Parser(expression, hierarchy, names).parse();
  if (!chosen.some(Boolean)) {
    const message = `subset '${expression}' has none of the ${count(chosen.length)} classes. Use a wider expression.`;
    throw new Refused({ code: "view_unusable", message });
  }
  return chosen;
}

// The synsets with an id, a display name or another name of their own.
export class Names {
  constructor(wordnet) {
    this.wordnet = wordnet;
    this.byName = new Map(wordnet.names.map((name, number) => [fold(name), number]));
    this.byWord = new Map();
    for (const [number, lemmas] of wordnet.lemmas.entries()) {
      for (const word of new Set(lemmas.map(fold))) {
        if (!this.byWord.has(word)) this.byWord.set(word, []);
        this.byWord.get(word).push(number);
      }
    }
  }

  // The number of the one synset that a text names.
  find(text, position) {
    const { ids, names, numberOf } = this.wordnet;
    const word = fold(text.replaceAll("_", " ")).split(/\s+/u).filter(Boolean).join(" ");
    const found = numberOf.get(word) ?? this.byName.get(word);
    if (found !== undefined) return found;
    const meant = this.byWord.get(word) ?? [];
    if (meant.length === 1) return meant[0];
    if (meant.length) {
      const senses = meant.map((number) => `${ids[number]} (${names[number]})`).join(", ");
      throw wrong(`'${text}' is the name of ${meant.length} synsets. Write one of ${senses}.`, position);
    }
    const near = this.#near(word).map((one) => `'${one}'`).join(", ");
    const offer = near ? `Did you mean ${near}?` : "Write an id such as n02084071 or a name such as dog.";
    throw wrong(`no synset is called '${text}'. ${offer}`, position);
  }

  // At most three words that differ by the fewest letters, and by at most a third of them.
  #near(word) {
    const most = Math.floor(word.length / 3);
    const found = [];
    for (const other of new Set([...this.byWord.keys(), ...this.byName.keys()])) {
      if (Math.abs(other.length - word.length) > most) continue;
      const edits = distance(word, other, most);
      if (edits <= most) found.push([edits, other]);
    }
    return found.sort(([a, one], [b, other]) => a - b || (one < other ? -1 : 1)).slice(0, 3).map(([, one]) => one);
  }
}

// Letters to add, remove or replace, and neighbours to swap, between two words; Infinity above `most`.
function distance(a, b, most) {
  let before = [];
  let row = Array.from({ length: b.length + 1 }, (_, place) => place);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      let edits = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) edits = Math.min(edits, before[j - 2] + 1);
      next.push(edits);
    }
    if (Math.min(...next) > most) return Infinity;
    [before, row] = [row, next];
  }
  return row[b.length];
}

// A method for each level of precedence; each returns an array with 1 or 0 for each label.
class Parser {
  constructor(expression, hierarchy, names) {
    Object.assign(this, { expression, hierarchy, names });
    this.wordnet = hierarchy.wordnet;
    this.end = 0;
    this.depth = 0;
    this.#next();
  }

  // Return the current token and read the next one.
  #next() {
    const { token } = this;
    TOKEN.lastIndex = this.end;
    const match = TOKEN.exec(this.expression);
    if (!match) throw wrong('this " has no closing "', this.expression.indexOf('"', this.end));
    const [kind, text] = Object.entries(match.groups).find(([, value]) => value !== undefined);
    const skipped = match[0].length - match[0].trimStart().length;
    this.token = { kind, text, position: match.index + (kind === "end" ? match[0].length : skipped) };
    this.end = TOKEN.lastIndex;
    return token;
  }

  #is(text) {
    return this.token.kind === "sign" && this.token.text === text;
  }

  #expect(text) {
    if (!this.#is(text)) throw wrong(`expected '${text}' here`, this.token.position);
    this.#next();
  }

  #accept(text) {
    const accepted = this.#is(text);
    if (accepted) this.#next();
    return accepted;
  }

  #mask(has) {
    return Uint8Array.from(this.hierarchy.classes, (synset, label) => (has(synset, label) ? 1 : 0));
  }

  parse() {
    const chosen = this.#union();
    if (this.token.kind !== "end") throw wrong("expected '&', '|' or the end here", this.token.position);
    return chosen;
  }

  #union() {
    let chosen = this.#intersection();
    while (this.#accept("|")) {
      const other = this.#intersection();
      chosen = chosen.map((one, label) => one | other[label]);
    }
    return chosen;
  }

  #intersection() {
    let chosen = this.#operand();
    while (this.#accept("&")) {
      const other = this.#operand();
      chosen = chosen.map((one, label) => one & other[label]);
    }
    return chosen;
  }

  #operand() {
    if (this.#is("!") || this.#is("(")) {
      this.depth += 1;
      if (this.depth > MAX_DEPTH) throw wrong(`more than ${MAX_DEPTH} '(' and '!' inside each other`, this.token.position);
      const chosen = this.#nested();
      this.depth -= 1;
      return chosen;
    }
    const token = this.#next();
    if (token.kind !== "word" && token.kind !== "quoted") {
      const words = "all, leaf, internal, basic, under, above, cut, partition";
      throw wrong(`expected one of ${words}, the name of a class or of a list, or '(' here`, token.position);
    }
    return token.kind === "word" ? this.#named(token) : this.#single(token);
  }

  #nested() {
    if (this.#accept("!")) return this.#operand().map((one) => 1 - one);
    this.#expect("(");
    const chosen = this.#union();
    this.#expect(")");
    return chosen;
  }

  #isLeaf(synset) {
    return this.hierarchy.sizes[this.hierarchy.nodeOf[synset]] === 1;
  }

  #named(token) {
    const word = token.text;
    if (word === "all") return this.#mask(() => true);
    if (word === "leaf") return this.#mask((synset) => this.#isLeaf(synset));
    if (word === "internal") return this.#mask((synset) => !this.#isLeaf(synset));
    if (word === "basic") return this.#among(this.hierarchy.classes.map((synset) => this.wordnet.basic[synset]));
    if (this.wordnet.lists.has(word)) return this.#among(this.wordnet.lists.get(word));
    if (["ic", "size", "rank"].includes(word)) return this.#compared(token);
    if (["cut", "partition"].includes(word)) return this.#cut(word);
    if (["under", "above"].includes(word) && this.token.text === "(") return this.#related(word);
    return this.#single(token);
  }

  #among(synsets) {
    const wanted = new Set(synsets);
    return this.#mask((synset) => wanted.has(synset));
  }

  #single(token) {
    const { ids, names } = this.wordnet;
    const synset = this.names.find(token.text, token.position);
    if (this.hierarchy.labelOf[synset] < 0) {
      const message =
        `${names[synset]} is not one of the ${count(this.hierarchy.classes.length)} classes.` +
        ` The classes below it are under(${ids[synset]})`;
      throw wrong(message, token.position);
    }
    return this.#among([synset]);
  }

  #related(relation) {
    this.#expect("(");
    const token = this.#next();
    if (token.kind !== "word" && token.kind !== "quoted") throw wrong(`expected a synset in ${relation}()`, token.position);
    const synset = this.names.find(token.text, token.position);
    this.#expect(")");
    const { ancestors } = this.wordnet;
    if (relation === "above") return this.#among(ancestors[synset]);
    return this.#mask((one) => ancestors[one].includes(synset));
  }

  #compared(quantity) {
    const compare = this.token.kind === "sign" ? COMPARE[this.token.text] : undefined;
    if (!compare) {
      throw wrong(`expected one of ${Object.keys(COMPARE).join(" ")} here, as in ${quantity.text}>=3`, this.token.position);
    }
    this.#next();
    const number = this.#next();
    if (!NUMBER.test(number.text)) throw wrong("expected a number here", number.position);
    const bound = Number(number.text);
    const { hierarchy, wordnet } = this;
    if (quantity.text === "rank") return this.#mask((synset) => wordnet.ranks[synset] >= 0 && compare(wordnet.ranks[synset], bound));
    const values = quantity.text === "ic" ? hierarchy.ic : hierarchy.sizes;
    return this.#mask((synset) => compare(values[hierarchy.nodeOf[synset]], bound));
  }

  #cut(kind) {
    this.#expect("(");
    const quantity = this.#next();
    if (quantity.text !== "ic" && quantity.text !== "size") {
      throw wrong(`expected ic or size here, as in ${kind}(ic=3) or ${kind}(size=500)`, quantity.position);
    }
    if (this.token.text === "=") this.token.text = quantity.text === "ic" ? ">=" : "<=";
    const chosen = this.#compared(quantity);
    this.#expect(")");
    const { hierarchy, wordnet } = this;
    const isChosen = (synset) => hierarchy.labelOf[synset] >= 0 && chosen[hierarchy.labelOf[synset]] === 1;
    const hasAbove = (synset) => wordnet.ancestors[synset].some((one) => one !== synset && isChosen(one));
    return this.#mask((synset) => !hasAbove(synset) && (kind === "partition" || isChosen(synset)));
  }
}
