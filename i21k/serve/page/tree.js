// The classes of a model and the synsets above them, each below one parent.

export class Tree {
  constructor({ ids, names, parents, labels }) {
    Object.assign(this, { ids, names, parents, labels });
    const size = ids.length;
    this.nodeOf = new Map(ids.map((id, node) => [id, node]));
    this.children = Array.from({ length: size }, () => []);
    for (let node = 1; node < size; node++) this.children[parents[node]].push(node);
    this.#walk();
  }

  // How many classes are at or below each node, and a hue from its place in the tree, so that what
  // is related looks alike.
  #walk() {
    const size = this.ids.length;
    const first = new Float64Array(size);
    const last = new Float64Array(size);
    let count = 0;
    const open = [[0, false]];
    while (open.length) {
      const [node, done] = open.pop();
      if (done) {
        last[node] = count;
        continue;
      }
      first[node] = count;
      if (this.labels[node] >= 0) count += 1;
      open.push([node, true]);
      for (const child of [...this.children[node]].reverse()) open.push([child, false]);
    }
    this.sizes = last.map((to, node) => to - first[node]);
    this.hues = Array.from(first, (from, node) => Math.round((25 + (180 * (from + last[node])) / Math.max(1, count)) * 10) / 10);
  }

  // The probability of each node, from that of the classes.
  mass(probabilities) {
    const mass = new Float64Array(this.ids.length);
    for (let node = mass.length - 1; node >= 0; node--) {
      if (this.labels[node] >= 0) mass[node] += probabilities[this.labels[node]];
      if (node > 0) mass[this.parents[node]] += mass[node];
    }
    return mass;
  }

  // Skip nodes that are no class and have one child: they add nothing.
  descend(node) {
    while (this.labels[node] < 0 && this.children[node].length === 1) node = this.children[node][0];
    return node;
  }

  // The nodes from the root to a node, without those that `descend` skips.
  way(node) {
    const way = [];
    for (let at = node; at >= 0; at = this.parents[at]) way.push(at);
    const shown = way.reverse().map((at) => this.descend(at));
    return shown.filter((at, place) => shown.indexOf(at) === place);
  }
}

export function percent(probability) {
  if (probability >= 0.9995) return probability >= 1 ? "100 %" : "> 99.9 %";
  if (probability < 0.0005) return probability > 0 ? "< 0.1 %" : "0 %";
  return `${(100 * probability).toFixed(1)} %`;
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "hue") made.style.setProperty("--hue", value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// A name in any script, whose direction does not affect what is around it.
export const named = (text) => element("bdi", {}, text);
