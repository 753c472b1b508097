// A few synsets that cover the probability and do not repeat each other, as i21k/wordnet/diverse.py
// finds them. The reasons for each factor are there.

export function diverse(probabilities, hierarchy, k, { floor, least, share }) {
  const { specificity, sizes, synsets } = hierarchy;
  const folded = hierarchy.fold(probabilities);
  const background = meanOfAllBut(probabilities, k);
  let found = []; // {node, mass, excess}
  for (let node = synsets.length - 1; node >= 0; node--) {
    const excess = folded[node] - background * sizes[node];
    if (specificity[node] >= floor - 1e-12 && folded[node] >= least && excess > 1e-12) {
      found.push({ node, mass: folded[node], excess, rounded: Math.round(excess * 1e12) });
    }
  }
  found.sort((a, b) => b.rounded - a.rounded); // stable
  const mostly = mostlyOne(found, hierarchy, share);
  found = found.filter((_, place) => !mostly[place]);
  const best = bestSet(found, hierarchy, k).map((place) => found[place]);
  best.sort((a, b) => b.mass - a.mass || b.node - a.node);
  return best.map(({ node, mass }) => ({ at: synsets[node], probability: mass }));
}

function meanOfAllBut(probabilities, k) {
  const rest = probabilities.length - k;
  if (rest < 1) return 0;
  const sorted = Float64Array.from(probabilities).sort();
  let sum = 0;
  for (let place = 0; place < rest; place++) sum += sorted[place];
  return sum / rest;
}

// The nodes at or above a node.
const ancestors = ({ wordnet, synsets, nodeOf }, node) => wordnet.ancestors[synsets[node]].map((one) => nodeOf[one]);

// Which nodes have more than a share of their excess in one other node below them.
function mostlyOne(found, hierarchy, share) {
  const place = new Map(found.map(({ node }, number) => [node, number]));
  const mostly = new Uint8Array(found.length);
  for (const { node, excess } of found) {
    for (const above of ancestors(hierarchy, node)) {
      const at = place.get(above);
      if (above !== node && at !== undefined && excess > share * found[at].excess + 1e-12) mostly[at] = 1;
    }
  }
  return mostly;
}

// For each pair, the largest specificity of a common ancestor.
function sharedSpecificity(found, hierarchy) {
  const above = found.map(({ node }) => new Set(ancestors(hierarchy, node)));
  return above.map((of, row) =>
    Float64Array.from(above, (other, column) => {
      let most = 0;
      const [few, many] = column < row ? [of, other] : [other, of];
      for (const node of few) if (many.has(node)) most = Math.max(most, hierarchy.specificity[node]);
      return most;
    }),
  );
}

// For each one, the set of those that have a class in common with it, as the bits of a number.
function clashing(found, hierarchy) {
  const place = new Map(found.map(({ node }, number) => [node, number]));
  const clashes = found.map(() => 0n);
  const seen = new Set(); // many classes are below the same ones
  for (const above of hierarchy.above) {
    const places = [...above].map((node) => place.get(node)).filter((one) => one !== undefined);
    const key = places.join();
    if (!places.length || seen.has(key)) continue;
    seen.add(key);
    const bits = places.reduce((sum, one) => sum | (1n << BigInt(one)), 0n);
    for (const one of places) clashes[one] |= bits;
  }
  return clashes;
}

// The places of the best set of at most k, by branch and bound. The excess falls.
function bestSet(found, hierarchy, k) {
  if (!found.length) return [];
  const shared = sharedSpecificity(found, hierarchy);
  const clashes = clashing(found, hierarchy);
  const doClash = (a, b) => (clashes[a] >> BigInt(b)) & 1n;
  const specificity = found.map(({ node }) => hierarchy.specificity[node]);
  const worth = found.map(({ excess }) => excess);
  let best = [];
  let bestTotal = 0;

  const totalOf = (chosen) => {
    let total = 0;
    for (const [number, i] of chosen.entries()) {
      let said = 0;
      for (const u of chosen.slice(0, number)) said = Math.max(said, shared[i][u]);
      total += worth[i] * (specificity[i] - said);
    }
    return total;
  };

  // What `left` of some places can add at most: of those that all clash, one.
  const bound = (places, values, from, left) => {
    const groups = [];
    let total = 0;
    for (let n = from; n < places.length; n++) {
      const group = groups.findIndex((one) => !(one & ~clashes[places[n]]));
      if (group >= 0) groups[group] |= 1n << BigInt(places[n]);
      else if (groups.length === left) break;
      else {
        groups.push(1n << BigInt(places[n]));
        total += values[n];
      }
    }
    return total;
  };

  const search = (given, chosen, said) => {
    const total = totalOf(chosen);
    if (total > bestTotal * (1 + 1e-12)) [best, bestTotal] = [chosen, total];
    if (chosen.length === k || !given.length) return;
    const value = (i) => worth[i] * (specificity[i] - said[i]);
    const places = [...given].sort((a, b) => value(b) - value(a)); // stable
    const values = places.map(value);
    const left = k - chosen.length;
    for (const [n, i] of places.entries()) {
      const most = values.slice(n, n + left).reduce((sum, one) => sum + one, 0);
      if (total + most <= bestTotal * (1 + 1e-9)) return;
      if (total + bound(places, values, n, left) <= bestTotal * (1 + 1e-9)) return;
      const repeated = said.slice();
      for (let j = i; j < repeated.length; j++) repeated[j] = Math.max(said[j], shared[i][j]); // those with less excess
      const rest = places.slice(n + 1).filter((j) => !doClash(i, j));
      search(rest, [...chosen, i].sort((a, b) => a - b), repeated);
    }
  };
  search([...found.keys()], [], new Float64Array(found.length));
  return best;
}
