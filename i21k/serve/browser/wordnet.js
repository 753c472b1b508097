// WordNet and a class list in it, as i21k/wordnet/{taxonomy,hierarchy,partition}.py have them.
// Synsets have numbers, parents before their children. Nodes are the classes and all synsets above.

export class WordNet {
  // The content of wordnet.json. Of several parents, the most specific is the first.
  constructor({ ids, names, lemmas, parents, basic, ranks, lists }) {
    Object.assign(this, { ids, names, lemmas, parents, basic, ranks });
    this.numberOf = new Map(ids.map((id, number) => [id, number]));
    this.lists = new Map(Object.entries(lists).map(([name, bits]) => [name, members(bits, ids.length)]));
    this.ancestors = []; // of each synset: itself and all above it, in ascending order
    for (const [number, above] of parents.entries()) {
      const found = new Set([number]);
      for (const parent of above) for (const ancestor of this.ancestors[parent]) found.add(ancestor);
      this.ancestors.push(Int32Array.from(found).sort());
    }
  }
}

// The numbers of the bits that are set, in base64, the lowest bit of each byte first.
function members(base64, size) {
  const bytes = atob(base64);
  const found = [];
  for (let number = 0; number < size; number++) {
    if ((bytes.charCodeAt(number >> 3) >> (number & 7)) & 1) found.push(number);
  }
  return found;
}

export class Hierarchy {
  // classes: synset of each label. information: pairs of a number of classes and the information
  // content in nats of a node with so many at or below it, computed by Python.
  constructor(wordnet, classes, information) {
    Object.assign(this, { wordnet, classes });
    const { ancestors } = wordnet;
    const isNode = new Uint8Array(wordnet.ids.length);
    for (const synset of classes) for (const above of ancestors[synset]) isNode[above] = 1;
    this.synsets = []; // of each node
    this.nodeOf = new Int32Array(isNode.length).fill(-1); // of each synset
    for (const [synset, is] of isNode.entries()) if (is) this.nodeOf[synset] = this.synsets.push(synset) - 1;
    this.labelOf = new Int32Array(isNode.length).fill(-1); // of each synset
    for (const [label, synset] of classes.entries()) this.labelOf[synset] = label;
    this.above = classes.map((synset) => ancestors[synset].map((one) => this.nodeOf[one]));
    this.sizes = new Int32Array(this.synsets.length); // classes at or below each node
    for (const above of this.above) for (const node of above) this.sizes[node] += 1;
    const ofSize = new Map(information);
    this.ic = Float64Array.from(this.sizes, (size) => ofSize.get(size));
    const most = Math.log(Math.max(2, classes.length));
    this.specificity = this.ic.map((ic) => ic / most);
  }

  // The probability of the classes at or below each node, added up in the order of the labels.
  fold(probabilities) {
    const mass = new Float64Array(this.synsets.length);
    for (const [label, above] of this.above.entries()) {
      for (const node of above) mass[node] += probabilities[label];
    }
    return mass;
  }

  // The place in `members` (synsets) of the one that each class is under, so that it counts for one
  // only; -1 if there is none.
  owners(synsets) {
    const { parents } = this.wordnet;
    const place = new Map(synsets.map((synset, number) => [synset, number]));
    const owner = new Int32Array(this.nodeOf.length).fill(-1);
    for (const synset of this.synsets) {
      const parent = parents[synset].find((one) => owner[one] >= 0);
      owner[synset] = place.get(synset) ?? (parent === undefined ? -1 : owner[parent]);
    }
    return this.classes.map((synset) => owner[synset]);
  }

  // What the page draws: each node below one parent.
  tree() {
    const { ids, names, parents } = this.wordnet;
    return {
      ids: this.synsets.map((synset) => ids[synset]),
      names: this.synsets.map((synset) => names[synset]),
      parents: this.synsets.map((synset) => (parents[synset].length ? this.nodeOf[parents[synset][0]] : -1)),
      labels: this.synsets.map((synset) => this.labelOf[synset]),
    };
  }
}
