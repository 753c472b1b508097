// The page: an image in, answers of one or two models out.

import { drawAnswers } from "./answers.js";
import { json, numbers, predict, Refused } from "./api.js";
import { Expression } from "./expression.js";
import { Icicle } from "./icicle.js";
import { listenForImages } from "./inputs.js";
import { element, named, Tree } from "./tree.js";

const at = (id) => document.getElementById(id);
const TITLES = { top: "Top", subset: "Subset", fold: "Fold", diverse: "Diverse", basic: "Basic", hedge: "Hedge" };
const ABOUT = {
  top: "The most probable classes.",
  subset: "The most probable of some classes, as if there were no others.",
  fold: "The most probable of some synsets, each with all classes below it.",
  diverse: "A few synsets that cover the probability and do not repeat each other.",
  basic: "Everyday names: dog for a Yorkshire terrier.",
  hedge: "One answer, as specific as it can be while right often enough.",
};
const EXAMPLES = {
  subset: ["leaf & !under(person)", "under(animal)", "basic", "ilsvrc2012"],
  fold: ["ilsvrc2012", "basic", "size<=5", "cut(ic>=1)"],
};
const TAKES = { top: ["k"], subset: ["among", "k"], fold: ["among", "k"], diverse: ["k"], basic: ["k"], hedge: ["accuracy"] };

const state = { view: "top", among: { subset: "leaf & !under(person)", fold: "" }, image: null, sent: 0, asked: 0, isRight: true };
const columns = []; // one for each model: {model, tree, icicle, body, result}
const expression = new Expression({ input: at("among"), offers: at("offers"), verdict: at("verdict") }, (value) => {
  state.among[state.view] = value;
  soon(checkAndAnswer, 220);
});

let timer = 0;
function soon(call, delay) {
  clearTimeout(timer);
  timer = setTimeout(call, delay);
}

// Images

function complain(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) throw error;
  at("problem").replaceChildren(error.message);
}

function sized(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3)).toLocaleString("en")} KB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

async function send(file) {
  at("problem").replaceChildren();
  const most = state.limits.max_bytes;
  if (file.size > most) {
    complain(new Refused({ message: `${file.name} has ${sized(file.size)}. Use a file of at most ${sized(most)}.` }));
    return;
  }
  const number = ++state.sent;
  at("busy").textContent = "Looking …";
  at("drop").classList.add("waiting");
  const startedAt = performance.now();
  try {
    const found = await Promise.all(columns.map((column) => predict(file, { model: column.model.name, k: at("k").value })));
    const seconds = (performance.now() - startedAt) / 1000;
    if (number !== state.sent) return;
    state.image = file;
    for (const [place, column] of columns.entries()) column.result = found[place].id;
    preview(file, seconds);
    await Promise.all([answer(), ...columns.map(drawMass), drawNearest()]);
  } catch (error) {
    if (number === state.sent) complain(error);
  } finally {
    if (number === state.sent) {
      at("busy").textContent = "";
      at("drop").classList.remove("waiting");
    }
  }
}

// Only after it was read: a hostile file must not reach the browser's decoder first.
function preview(file, seconds) {
  const image = at("shown");
  URL.revokeObjectURL(image.src);
  const facts = [sized(file.size), `answered in ${seconds < 10 ? (seconds * 1000).toFixed(0) + " ms" : seconds.toFixed(0) + " s"}`];
  const tell = () => at("facts").replaceChildren(named(file.name || "pasted image"), ...facts.flatMap((fact) => [" · ", element("span", {}, fact)]));
  image.onload = () => {
    facts.unshift(`${image.naturalWidth} × ${image.naturalHeight} px`);
    tell();
  };
  image.onerror = () => {
    image.hidden = true; // such as TIFF, which the server reads and browsers do not
  };
  image.hidden = false;
  image.src = URL.createObjectURL(file);
  at("drop").classList.remove("empty");
  tell();
}

async function drawMass(column) {
  const { result } = column;
  if (column.model.probability !== "softmax") return; // they do not add up
  const found = await numbers(`/results/${result}/probabilities`);
  if (column.result !== result || !column.icicle) return;
  at("mass").hidden = false;
  column.icicle.show(found);
}

async function drawNearest() {
  const column = columns.find((one) => one.model.num_searched);
  if (!column) return;
  const { result, model } = column;
  const { nearest } = await json(`/results/${result}/nearest`, { k: 8 });
  if (column.result !== result) return;
  at("near").hidden = false;
  at("near-about").textContent =
    `Of ${model.num_searched.toLocaleString("en")} images, those whose features are most like this one's (cosine, at most 1).`;
  at("nearest").replaceChildren(
    ...nearest.map((one) => {
      const image = element("img", { alt: one.file, loading: "lazy", src: `/models/${encodeURIComponent(model.name)}/images/${one.number}` });
      const name = one.class?.name ?? one.file;
      return element("li", {}, element("figure", {}, element("div", { class: "frame" }, image),
        element("figcaption", {}, named(name), element("span", { class: "file" }, one.cosine.toFixed(3)))));
    }),
  );
}

// Answers

function parameters(column) {
  const given = { view: state.view, k: at("k").value };
  if (state.view in state.among) given.among = state.among[state.view].trim();
  if (state.view === "hedge") given.accuracy = wanted(column);
  return given;
}

function wanted(column) {
  const steps = column.model.calibrated;
  const value = Number(at("accuracy").value) / 100;
  return (steps.find((step) => step.wanted >= value - 1e-9) ?? steps.at(-1))?.wanted;
}

async function answer() {
  const number = ++state.asked;
  const { view } = state;
  await Promise.all(
    columns.map(async (column) => {
      const reason = column.model.views[view].unusable;
      if (reason) return column.body.replaceChildren(element("p", { class: "notice" }, reason));
      if (!column.result) return introduce(column);
      try {
        const found = await ask(column);
        if (number === state.asked) column.body.replaceChildren(drawAnswers(found, column.tree, (id) => reveal(column, id)));
      } catch (error) {
        if (number !== state.asked || error.name === "AbortError") return;
        if (!(error instanceof Refused)) throw error;
        column.body.replaceChildren(element("p", { class: "notice" }, error.message));
      }
    }),
  );
}

async function ask(column) {
  try {
    return await json(`/results/${column.result}/answers`, parameters(column));
  } catch (error) {
    if (error.code !== "unknown_result") throw error;
    const found = await predict(state.image, { model: column.model.name, ...parameters(column) });
    column.result = found.id; // the server keeps only the newest
    return found;
  }
}

async function checkAndAnswer() {
  const { view } = state;
  if (!(view in state.among)) return answer();
  const text = state.among[view].trim();
  const column = columns.find((one) => !one.model.views[view].unusable);
  if (!column) return answer();
  if (!text) {
    state.isRight = view === "fold";
    at("verdict").replaceChildren(element("span", { class: "soft" }, view === "fold" ? "Empty: the classes of ILSVRC 2012." : "Give an expression."));
    at("among").removeAttribute("aria-invalid");
  } else {
    const found = await json(`/models/${encodeURIComponent(column.model.name)}/subset`, { among: text, view });
    if (state.among[view].trim() !== text || state.view !== view) return undefined;
    const what = view === "subset" ? (count) => count : (count) => `${count.replace("class", "synset").replace("synsetes", "synsets")}`;
    expression.tell(what, text, found);
    state.isRight = !found.error;
  }
  return state.isRight ? answer() : undefined;
}

// What the views are, until there is an image.
function introduce(column) {
  if (column !== columns[0]) return;
  const lines = offered().map((view) => {
    const made = element("button", { type: "button", class: "name" }, TITLES[view]);
    made.addEventListener("click", () => choose(view, true));
    return element("div", {}, element("dt", {}, made), element("dd", {}, ABOUT[view]));
  });
  column.body.replaceChildren(element("dl", { class: "views" }, ...lines));
}

function reveal(column, id) {
  const node = column.tree?.nodeOf.get(id);
  if (node === undefined || !column.icicle?.mass) return;
  column.icicle.open(node);
  at("mass").scrollIntoView({ block: "nearest" });
}

// Views

function choose(view, focus = false) {
  state.view = view;
  for (const tab of at("tabs").children) {
    const isChosen = tab.id === `tab-${view}`;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    if (isChosen) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (isChosen && focus) tab.focus();
  }
  at("panel").setAttribute("aria-labelledby", `tab-${view}`);
  at("about").textContent = ABOUT[view];
  for (const name of ["among", "accuracy", "k"]) {
    const isUsable = columns.some((column) => !column.model.views[view].unusable);
    at(`of-${name}`).hidden = !TAKES[view].includes(name) || !isUsable;
  }
  if (view in state.among) {
    at("among").value = state.among[view];
    at("among-label").textContent = view === "subset" ? "Classes" : "Synsets to fold onto";
    at("among").placeholder = view === "fold" ? "ilsvrc2012" : "leaf & !under(person)";
    at("verdict").replaceChildren();
    at("examples").replaceChildren(
      ...EXAMPLES[view].map((text) => {
        const made = element("button", { type: "button", class: "example" }, element("code", {}, text));
        made.addEventListener("click", () => {
          at("among").value = state.among[view] = text;
          checkAndAnswer();
        });
        return made;
      }),
    );
  }
  if (view === "hedge") promise();
  checkAndAnswer();
}

function promise() {
  const column = columns.find((one) => one.model.calibrated.length);
  if (!column) return;
  at("wanted").textContent = `${at("accuracy").value} %`;
  at("accuracy").setAttribute("aria-valuetext", `${at("accuracy").value} percent`);
  const point = column.model.calibrated.find((step) => step.wanted === wanted(column));
  at("promise").textContent =
    `Of the answers for held-out images, ${(100 * point.accuracy).toFixed(1)} % were right.` +
    ` Their mean specificity was ${point.specificity.toFixed(2)} (0: entity, 1: a single class).`;
}

// The views that a model has, even if one cannot be used yet.
const offered = () => Object.keys(TITLES).filter((view) => columns.some((column) => view in column.model.views));

function makeTabs() {
  for (const view of offered()) {
    const tab = element("button", { type: "button", role: "tab", id: `tab-${view}`, "aria-controls": "panel" }, TITLES[view]);
    tab.addEventListener("click", () => choose(view));
    at("tabs").append(tab);
  }
  at("tabs").addEventListener("keydown", (event) => {
    const views = offered();
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -views.indexOf(state.view), End: -1 - views.indexOf(state.view) };
    if (!(event.key in moves)) return;
    event.preventDefault();
    choose(views[(views.indexOf(state.view) + moves[event.key] + views.length) % views.length], true);
  });
}

// Start

async function start() {
  const { models, limits, expression: words } = await json("/models");
  state.limits = limits;
  for (const model of models) {
    const body = element("div", { class: "body" });
    columns.push({ model, body, tree: null, icicle: null, result: null });
    const title = models.length > 1 ? [element("h3", {}, named(model.name))] : [];
    at("answers").append(element("article", { "aria-label": model.name }, ...title, body));
  }
  const facts = models.map((model) => [
    element("strong", {}, named(model.name)),
    `: ${model.num_classes.toLocaleString("en")} classes, ${model.image_size} px`,
  ]);
  at("models").replaceChildren(...facts.flatMap((fact, place) => (place ? [" beside ", ...fact] : fact)));
  const steps = models.flatMap(({ calibrated }) => {
    // Below the accuracy of the most specific answers, nothing changes.
    const free = calibrated.findLastIndex((step) => step.accuracy === calibrated[0].accuracy);
    return calibrated.slice(free).map((step) => Math.round(100 * step.wanted));
  });
  if (steps.length) {
    at("accuracy").min = Math.min(...steps);
    at("accuracy").max = Math.max(...steps);
    at("accuracy").value = 90;
  }
  makeTabs();
  choose("top");
  listenForImages(at, send, (message) => complain(new Refused({ message })));
  at("k").addEventListener("change", answer);
  at("accuracy").addEventListener("input", () => {
    promise();
    soon(answer, 60);
  });
  const meanings = new Map();
  await Promise.all(
    columns.map(async (column) => {
      column.tree = new Tree(await json(`/models/${encodeURIComponent(column.model.name)}/tree`));
      column.icicle = new Icicle(column.tree, (id, tell) => {
        tell(meanings.get(id) ?? "");
        if (/^n\d{8}$/u.test(id) && !meanings.has(id)) {
          meanings.set(id, "");
          json(`/synsets/${id}`).then(
            ({ meaning }) => {
              meanings.set(id, meaning);
              if (column.icicle.described === id) tell(meaning);
            },
            () => meanings.delete(id),
          );
        }
      });
      const title = models.length > 1 ? [element("h3", {}, named(column.model.name))] : [];
      column.place = element("article", { "aria-label": column.model.name }, ...title, column.icicle.root);
    }),
  );
  at("icicles").append(...columns.map((column) => column.place));
  const withWordNet = columns.find(({ model }) => model.views.subset && !model.views.subset.unusable);
  if (withWordNet) expression.learn(words.keywords, withWordNet.tree);
  if (columns.every((column) => column.result)) await Promise.all([answer(), ...columns.map(drawMass)]);
}

start().catch(complain);
