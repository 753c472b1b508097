// The probability over WordNet as fields that open: depth to the right, probability downwards.

import { element, named, percent } from "./tree.js";

const LEAST_PX = 3; // lower fields are drawn together
const LABEL_PX = 15;
const SURE = 0.9;

export class Icicle {
  constructor(tree, onPick) {
    this.tree = tree;
    this.onPick = onPick;
    this.focus = tree.descend(0);
    this.cells = new Map();
    this.way = element("nav", { class: "way small", "aria-label": "Path in WordNet" });
    this.field = element("div", { class: "icicle", role: "group", "aria-label": "Probability by synset" });
    this.about = element("p", { class: "about small", "aria-live": "polite" });
    this.root = element("div", {}, this.way, this.field, this.about);
    this.field.addEventListener("click", (event) => this.#open(event.target.closest("button")));
    this.field.addEventListener("keydown", (event) => this.#key(event));
    this.field.addEventListener("focusin", (event) => this.#pick(event.target.closest("button")));
    this.field.addEventListener("pointerover", (event) => this.#pick(event.target.closest("button"), true));
    new ResizeObserver(() => this.draw()).observe(this.field);
  }

  // Open near the lowest synset that has most of the probability: those far above are too general.
  show(probabilities) {
    this.mass = this.tree.mass(probabilities);
    let node = 0;
    for (;;) {
      const below = this.tree.children[node].filter((child) => this.mass[child] >= SURE * this.mass[0]);
      if (!below.length) break;
      [node] = below;
    }
    const way = this.tree.way(node);
    this.focus = way[Math.max(0, way.length - 3)];
    this.draw();
  }

  // Open the node, or the lowest one above it that has children.
  open(node) {
    while (node > 0 && !this.tree.children[node].length) node = this.tree.parents[node];
    this.focus = this.tree.descend(node);
    this.draw();
  }

  draw() {
    const height = this.field.clientHeight;
    const width = this.field.clientWidth;
    if (!this.mass || !height || !width) return;
    const most = width < 480 ? 3 : width < 800 ? 4 : 5;
    const total = this.mass[this.focus] || 1;
    const wanted = [];
    const place = (node, column, top, tall) => {
      const cell = { key: String(node), node, column, top, tall, isLast: !this.tree.children[node].length };
      wanted.push(cell);
      if (column + 1 === most) return;
      const below = [...this.tree.children[node]].sort((a, b) => this.mass[b] - this.mass[a]);
      let at = top;
      for (const [number, child] of below.entries()) {
        const childTall = (this.mass[child] / total) * height;
        if (childTall < LEAST_PX) {
          const rest = below.slice(number).reduce((sum, one) => sum + this.mass[one], 0);
          const restTall = (rest / total) * height;
          if (restTall >= 1) {
            const count = below.length - number;
            wanted.push({ key: `rest ${node}`, node, column: column + 1, top: at, tall: restTall, rest: count, mass: rest, isLast: true });
          }
          break;
        }
        place(this.tree.descend(child), column + 1, at, childTall);
        at += childTall;
      }
    };
    place(this.focus, 0, 0, height);
    this.#update(wanted, Math.max(...wanted.map((cell) => cell.column)) + 1);
    this.#drawWay();
  }

  #update(wanted, columns) {
    const keys = new Set(wanted.map((cell) => cell.key));
    const hadFocus = this.field.contains(document.activeElement);
    for (const [key, made] of this.cells) {
      if (!keys.has(key)) {
        made.remove();
        this.cells.delete(key);
      }
    }
    for (const cell of wanted) {
      let made = this.cells.get(cell.key);
      if (!made) {
        made = this.#make(cell);
        this.cells.set(cell.key, made);
      }
      this.field.append(made); // the order of the keyboard is that of the tree
      const mass = cell.rest ? cell.mass : this.mass[cell.node];
      const name = cell.rest ? `${cell.rest.toLocaleString("en")} more` : this.tree.names[cell.node];
      made.firstChild.firstChild.textContent = name;
      made.firstChild.lastChild.textContent = percent(mass);
      made.setAttribute("aria-label", `${name}, ${percent(mass)}`);
      made.dataset.column = cell.column;
      const style = made.style;
      style.left = `${(100 * cell.column) / columns}%`;
      style.width = `${(100 * (cell.isLast ? columns - cell.column : 1)) / columns}%`; // nothing is beside it
      style.top = `${cell.top}px`;
      style.height = `${cell.tall}px`;
      made.classList.toggle("low", cell.tall < LABEL_PX);
      made.classList.toggle("tall", cell.tall >= 2.6 * LABEL_PX);
      made.tabIndex = cell.column ? -1 : 0;
    }
    if (hadFocus && !this.field.contains(document.activeElement)) this.cells.get(String(this.focus))?.focus();
  }

  #make(cell) {
    const made = element(
      "button",
      { type: "button", class: cell.rest ? "cell rest" : "cell", hue: this.tree.hues[cell.node] },
      element("span", { class: "text" }, named(""), element("span", { class: "number" })),
    );
    made.dataset.node = cell.node;
    if (!cell.rest && !this.tree.children[cell.node].length) made.classList.add("leaf");
    return made;
  }

  #open(cell) {
    if (!cell) return;
    const node = Number(cell.dataset.node);
    if (cell.dataset.column === "0") {
      const way = this.tree.way(node);
      this.open(way.at(-2) ?? way[0]);
    } else this.open(node);
    this.#describe(node);
  }

  #pick(cell, quiet = false) {
    if (cell) this.#describe(Number(cell.dataset.node), quiet);
  }

  #describe(node, quiet = false) {
    this.described = this.tree.ids[node];
    this.about.setAttribute("aria-live", quiet ? "off" : "polite");
    this.onPick(this.tree.ids[node], (text) => {
      const name = element("strong", {}, named(this.tree.names[node]));
      this.about.replaceChildren(name, ` ${percent(this.mass[node])}`, text ? element("span", { class: "soft" }, ` ${text}`) : "");
    });
  }

  #drawWay() {
    const way = this.tree.way(this.focus);
    const parts = way.map((node, place) => {
      const last = place === way.length - 1;
      const made = element("button", { type: "button", "aria-current": last ? "location" : undefined }, named(this.tree.names[node]));
      made.addEventListener("click", () => this.open(node));
      return made;
    });
    this.way.replaceChildren(...parts);
  }

  #key(event) {
    const cell = event.target.closest("button");
    const cells = [...this.field.children];
    const column = Number(cell.dataset.column);
    const middle = cell.offsetTop + cell.offsetHeight / 2;
    const covers = (other) => other.offsetTop <= middle && middle < other.offsetTop + other.offsetHeight;
    const inColumn = (number) => cells.filter((other) => Number(other.dataset.column) === number);
    const same = inColumn(column).sort((a, b) => a.offsetTop - b.offsetTop);
    const moves = {
      ArrowDown: () => same[same.indexOf(cell) + 1],
      ArrowUp: () => same[same.indexOf(cell) - 1],
      ArrowRight: () => inColumn(column + 1).find((other) => other.offsetTop >= cell.offsetTop && other.offsetTop < cell.offsetTop + cell.offsetHeight),
      ArrowLeft: () => inColumn(column - 1).find(covers),
      Home: () => this.cells.get(String(this.focus)),
    };
    if (event.key in moves) {
      event.preventDefault();
      moves[event.key]()?.focus();
    } else if (event.key === "Escape" || event.key === "Backspace") {
      event.preventDefault();
      const way = this.tree.way(this.focus);
      this.open(way.at(-2) ?? way[0]);
    }
  }
}
