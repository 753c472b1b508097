// From probabilities to the JSON that `i21k serve` answers with.

import { diverse } from "./diverse.js";
import { Names, select } from "./expressions.js";
import { Refused } from "./refused.js";
import { basic, fold, hedge, outline, scaled, subset, tempered, top } from "./views.js";
import { Hierarchy, WordNet } from "./wordnet.js";

const EXAMPLES = 8;

export class Answering {
  // model: the content of model.json. wordnet: that of wordnet.json, or null if the classes are not
  // in it.
  constructor(model, wordnet) {
    this.model = model;
    if (!wordnet) return;
    this.wordnet = new WordNet(wordnet);
    const { numberOf } = this.wordnet;
    this.hierarchy = new Hierarchy(this.wordnet, model.classes.ids.map((id) => numberOf.get(id)), model.information);
    this.names = new Names(this.wordnet);
  }

  // The synsets that `fold` can use: the classes of the model and of two lists.
  get candidates() {
    const { lists, ids } = this.wordnet;
    const all = new Set([...this.hierarchy.classes, ...lists.get("fall11"), ...lists.get("ilsvrc2012")]);
    const sorted = [...all].sort((a, b) => (ids[a] < ids[b] ? -1 : 1));
    const value = new Hierarchy(this.wordnet, sorted, this.model.fold_information);
    Object.defineProperty(this, "candidates", { value });
    return value;
  }

  calibrated(probabilities) {
    return tempered(probabilities, this.model.temperature);
  }

  // The labels that an expression chooses for `subset`, with 1 or 0 for each.
  #chosen(expression) {
    return select(expression, this.hierarchy, this.names);
  }

  // The synsets that an expression chooses for `fold`.
  #onto(expression) {
    const mask = select(expression, this.candidates, this.names);
    const found = this.candidates.classes.filter((synset, label) => mask[label] && this.hierarchy.nodeOf[synset] >= 0);
    if (found.length) return found;
    const classes = `${this.model.num_classes.toLocaleString("en")} classes`;
    const message = `none of the model's ${classes} is at or below '${expression}'; choose other synsets to fold onto`;
    throw new Refused({ code: "view_unusable", message });
  }

  #generality(accuracy) {
    const point = this.model.calibrated.find((one) => one.wanted >= accuracy - 1e-9);
    if (point) return point.generality;
    const message = `The model is calibrated up to ${this.model.calibrated.at(-1)?.wanted}.`;
    throw new Refused({ code: "accuracy_not_calibrated", message });
  }

  // {at, probability}: labels in `top` and `subset`, synsets in the others.
  #found(probabilities, { view, among, k, accuracy }) {
    const { order } = this.model.classes;
    if (view === "top" && this.model.probability !== "softmax") return top(probabilities, order, k);
    if (view === "hedge") return hedge(scaled(probabilities), this.hierarchy, this.#generality(accuracy));
    const usual = scaled(this.calibrated(probabilities));
    if (view === "top") return top(usual, order, k);
    if (view === "subset") return subset(usual, order, this.#chosen(among), k);
    if (view === "basic") return basic(usual, this.hierarchy, k);
    if (view === "diverse") return diverse(usual, this.hierarchy, k, this.model.diverse);
    const onto = this.#onto(among || this.model.expression.fold);
    return fold(usual, this.hierarchy, onto, k, (among ?? "").includes("partition("));
  }

  answers(probabilities, { view = "top", among, k = 5, accuracy = 0.9 }) {
    const found = this.#found(probabilities, { view, among, k: Number(k), accuracy: Number(accuracy) });
    if (!this.wordnet) {
      const { ids, names } = this.model.classes;
      const shown = found.map(({ at, probability }) => ({ id: ids[at], name: names[at], probability }));
      return { view, answers: shown, tree: shown.map((row) => ({ ...row, depth: 0 })) };
    }
    const isLabel = view === "top" || view === "subset";
    const synsets = found.map(({ at, probability }) => ({ at: isLabel ? this.hierarchy.classes[at] : at, probability }));
    const { ids, names } = this.wordnet;
    const row = ({ at, ...rest }) => ({ id: ids[at], name: names[at], ...rest });
    return { view, answers: synsets.map(row), tree: synsets.length ? outline(synsets, this.wordnet).map(row) : [] };
  }

  // How many classes or synsets an expression chooses, some of them, and what is wrong with it.
  choose({ among, view }) {
    try {
      let found;
      if (view === "fold") found = this.#onto(among);
      else {
        const chosen = this.#chosen(among);
        found = this.hierarchy.classes.filter((_, label) => chosen[label]);
      }
      const examples = found.slice(0, EXAMPLES).map((synset) => this.wordnet.names[synset]);
      return { num_classes: found.length, examples, error: null };
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const { code, message, position } = error;
      return { num_classes: 0, examples: [], error: { code, message, position } };
    }
  }

  tree() {
    if (this.wordnet) return this.hierarchy.tree();
    const { ids, names } = this.model.classes;
    return {
      ids: ["", ...ids],
      names: ["all classes", ...names],
      parents: [-1, ...ids.map(() => 0)],
      labels: [-1, ...ids.keys()],
    };
  }
}
