// From probabilities to answers, as i21k/wordnet/{answers,views,hedge,outline}.py have it. An answer
// is {at, probability}: `at` is a label in `top` and `subset`, and a synset in the other views.

// The k largest; of equal ones the first by id. `order` has the places in the order of their ids.
function rank(mass, order, k) {
  const sorted = [...order].sort((a, b) => mass[b] - mass[a]); // stable
  return sorted.slice(0, k).map((at) => ({ at, probability: mass[at] }));
}

// Synset numbers are not in the order of their ids.
const byId = (synsets, { ids }) =>
  [...synsets.keys()].sort((a, b) => (ids[synsets[a]] < ids[synsets[b]] ? -1 : 1));

// In float64 and scaled to add up to 1.
export function scaled(probabilities) {
  const wide = Float64Array.from(probabilities);
  const total = wide.reduce((sum, one) => sum + one, 0);
  return wide.map((one) => one / total);
}

// Probabilities at a temperature: their logarithms divided by it, scaled to add up to 1 again.
export function tempered(probabilities, temperature) {
  if (temperature === 1) return probabilities;
  const logs = Float64Array.from(probabilities, (one) => Math.max(-87, Math.min(0, Math.log(one))) / temperature);
  return softmax(logs);
}

export function softmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const exponentials = Float64Array.from(logits, (one) => Math.exp(one - most));
  const total = exponentials.reduce((sum, one) => sum + one, 0);
  return Float32Array.from(exponentials, (one) => one / total);
}

export const sigmoid = (logits) => Float32Array.from(logits, (one) => 1 / (1 + Math.exp(-one)));

export const top = (probabilities, order, k) => rank(probabilities, order, k);

// Of the classes with a 1 in `chosen`, as if there were no others.
export function subset(probabilities, order, chosen, k) {
  const labels = order.filter((label) => chosen[label]);
  const total = labels.toSorted((a, b) => a - b).reduce((sum, label) => sum + probabilities[label], 0);
  const some = probabilities.map((one) => (total > 0 ? one / total : 0));
  return rank(some, labels, k);
}

// Each of some synsets with all classes below it. With `once`, each class counts for one of them.
export function fold(probabilities, hierarchy, onto, k, once) {
  const mass = new Float64Array(onto.length);
  if (once) {
    for (const [label, owner] of hierarchy.owners(onto).entries()) if (owner >= 0) mass[owner] += probabilities[label];
  } else {
    const folded = hierarchy.fold(probabilities);
    for (const [place, synset] of onto.entries()) mass[place] = folded[hierarchy.nodeOf[synset]] ?? 0;
  }
  return rank(mass, byId(onto, hierarchy.wordnet), k).map(({ at, probability }) => ({ at: onto[at], probability }));
}

// Everyday names: each class counts for one of them.
export function basic(probabilities, hierarchy, k) {
  const names = [];
  const placeOf = new Map();
  const mass = [];
  for (const [label, synset] of hierarchy.classes.entries()) {
    const name = hierarchy.wordnet.basic[synset];
    if (!placeOf.has(name)) {
      placeOf.set(name, names.push(name) - 1);
      mass.push(0);
    }
    mass[placeOf.get(name)] += probabilities[label];
  }
  return rank(mass, byId(names, hierarchy.wordnet), k).map(({ at, probability }) => ({ at: names[at], probability }));
}

// One synset: the largest (specificity + generality) * probability, of equal ones the last.
export function hedge(probabilities, hierarchy, generality) {
  const mass = hierarchy.fold(probabilities);
  let best = 0;
  let most = -Infinity;
  for (const [node, one] of mass.entries()) {
    const value = one > 0 ? (hierarchy.specificity[node] + generality) * one : -Infinity;
    if (value >= most) [best, most] = [node, value];
  }
  return [{ at: hierarchy.synsets[best], probability: mass[best] }];
}

// The lines of the tree of some answers (synsets), from the root down: the answers, and the synsets
// above them where it branches.
export function outline(answers, { ids, parents }) {
  const probability = new Map(answers.map((answer) => [answer.at, answer.probability]));
  const children = new Map([[0, new Set()]]);
  for (const answer of probability.keys()) {
    for (let node = answer; node !== 0; ) {
      const [parent] = parents[node];
      if (!children.has(node)) children.set(node, new Set());
      if (!children.has(parent)) children.set(parent, new Set());
      children.get(parent).add(node);
      node = parent;
    }
  }
  const rows = [];
  const weight = (node) => Math.max(probability.get(node) ?? 0, ...[...children.get(node)].map(weight));
  const skip = (node) => {
    while (!probability.has(node) && children.get(node).size === 1) [node] = children.get(node);
    return node;
  };
  const draw = (node, depth) => {
    rows.push({ at: node, depth, probability: probability.get(node) ?? null });
    const below = [...children.get(node)].map(skip);
    below.sort((a, b) => weight(b) - weight(a) || (ids[a] < ids[b] ? -1 : 1));
    for (const one of below) draw(one, depth + 1);
  };
  draw(0, 0);
  return rows;
}
