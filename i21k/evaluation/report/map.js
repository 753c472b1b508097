// The classes in WordNet as an icicle: each level a row, each block as wide as its share.
// Blocks that would be narrower than a few pixels are drawn together, so that 45,000 nodes are
// a few hundred elements.
"use strict";
(() => {
  const source = document.getElementById("map-data");
  const box = document.getElementById("class-map");
  if (!source || !box) return;
  const tree = JSON.parse(source.textContent);
  const N = tree.ids.length;
  if (!N) return;
  const ROW = 38, NARROW = 5, PAGE = 40;

  // Sums over each node and all below it; parents come before their children.
  const sums = { images: tree.images.slice(), top1: tree.top1.slice(), top5: tree.top5.slice(), classes: tree.images.map((n) => +(n > 0)) };
  const children = Array.from({ length: N }, () => []);
  for (let n = N - 1; n > 0; n--) {
    const parent = tree.parents[n];
    children[parent].push(n);
    for (const key in sums) sums[key][parent] += sums[key][n];
  }
  let blocks = [], focus = 0, metric = "top1", width = "images", shownRows = PAGE, order = "size", marked = -1;

  const button = (text, action, attributes = {}) => {
    const element = html("button", { type: "button", ...attributes }, text);
    element.addEventListener("click", action);
    return element;
  };
  const count = (n) => n.toLocaleString("en");
  const share = (hits, images) => (images ? hits / images : 0);
  const percent = (value) => (value * 100).toFixed(1) + "\u00a0%";
  const look = (value) => "a" + Math.round(value * 10);
  const describe = (node) => {
    const images = sums.images[node], classes = sums.classes[node];
    return `${tree.names[node]}: ${percent(share(sums.top1[node], images))} top-1, ` +
      `${percent(share(sums.top5[node], images))} top-5, ${count(images)} images, ${count(classes)} class${classes === 1 ? "" : "es"}`;
  };
  const own = (node) => (width === "images" ? tree.images[node] : +(tree.images[node] > 0));

  const path = html("nav", { class: "path", "aria-label": "Path in WordNet" });
  const svg = make("svg", { role: "group", "aria-label": "Map of the classes" });
  const tip = html("p", { class: "tip soft", "aria-live": "polite" });
  const list = html("div");
  const found = html("ul", { class: "found" });

  const open = (node, mark = -1) => {
    focus = node; marked = mark; shownRows = PAGE;
    draw();
  };

  // A block for a node, for the class itself among its subclasses, or for several narrow ones.
  const place = (node, x, w, level, depth) => {
    if (level >= depth) return;
    let at = x;
    const total = Math.max(sums[width][node], 1e-9);
    const below = children[node].slice().sort((a, b) => sums[width][b] - sums[width][a] || a - b);
    const narrow = [];
    for (const child of below) {
      const wide = (w * sums[width][child]) / total;
      if (wide < NARROW) { narrow.push(child); continue; }
      block(child, at, wide, level, describe(child), "");
      place(child, at, wide, level + 1, depth);
      at += wide;
    }
    if (narrow.length) {
      const sum = (key) => narrow.reduce((a, n) => a + sums[key][n], 0);
      const wide = (w * sum(width)) / total;
      const text = narrow.length === 1 ? describe(narrow[0])
        : `${count(narrow.length)} more below ${tree.names[node]}: ${percent(share(sum(metric), sum("images")))}, ${count(sum("images"))} images`;
      if (wide > 0.4) block(narrow.length === 1 ? narrow[0] : node, at, wide, level, text, "rest", share(sum(metric), sum("images")));
      at += wide;
    }
    if (own(node) && children[node].length) {
      const wide = (w * own(node)) / total;
      if (wide >= 1) block(node, at, wide, level, `${tree.names[node]}, the class itself: ${percent(share(tree[metric][node], tree.images[node]))}, ${count(tree.images[node])} images`, "self", share(tree[metric][node], tree.images[node]));
    }
  };
  const block = (node, x, w, level, text, kind, value = share(sums[metric][node], sums.images[node])) => {
    const group = make("g", { class: "block " + kind, tabindex: blocks.length ? "-1" : "0", role: "button", "aria-label": text }, svg);
    make("rect", { class: look(value), x: x.toFixed(1), y: level * ROW, width: Math.max(w, 0.6).toFixed(1), height: ROW }, group);
    make("title", {}, group, text);
    if (w > 28) {
      const label = kind === "rest" ? "…" : shortened(tree.names[node], w - 10);
      make("text", { x: (x + 6).toFixed(1), y: level * ROW + 16 }, group, label);
      if (w > 54) make("text", { x: (x + 6).toFixed(1), y: level * ROW + 30 }, group, percent(value));
    }
    const entry = { group, level, x, end: x + w };
    blocks.push(entry);
    const act = () => { const had = document.activeElement === group; open(node); if (had) blocks[0].group.focus(); };
    group.addEventListener("click", act);
    group.addEventListener("keydown", (event) => {
      const next = neighbour(entry, event.key);
      if (next) next.group.focus();
      else if (event.key === "Enter" || event.key === " ") act();
      else if (event.key === "Escape" && tree.parents[focus] >= 0) { open(tree.parents[focus]); blocks[0].group.focus(); }
      else return;
      event.preventDefault();
    });
    for (const name of ["pointerenter", "focus"]) group.addEventListener(name, () => { tip.textContent = text; });
  };

  // One block is reached with Tab, the others from it with the arrows.
  const neighbour = (from, key) => {
    const row = (level) => blocks.filter((b) => b.level === level).sort((a, b) => a.x - b.x);
    const near = (level) => row(level).find((b) => b.end > from.x + 0.5 && b.x < from.end - 0.5);
    const same = row(from.level), at = same.indexOf(from);
    return { ArrowLeft: same[at - 1], ArrowRight: same[at + 1], ArrowUp: near(from.level - 1), ArrowDown: near(from.level + 1) }[key];
  };
  const pen = document.createElement("canvas").getContext("2d");
  const shortened = (text, most) => {
    pen.font = "12px " + getComputedStyle(document.body).fontFamily;
    if (pen.measureText(text).width <= most) return text;
    const letters = Array.from(text);
    while (letters.length && pen.measureText(letters.join("") + "…").width > most) letters.pop();
    return letters.join("") + "…";
  };

  const draw = () => {
    blocks = [];
    const trail = [];
    for (let n = focus; n >= 0; n = tree.parents[n]) trail.unshift(n);
    path.replaceChildren(...trail.flatMap((n, k) => {
      const one = button(tree.names[n], () => open(n), n === focus ? { "aria-current": "true" } : {});
      return k ? ["›", one] : [one];
    }));
    const wide = Math.max(280, box.clientWidth), depth = wide < 600 ? 4 : 7;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${wide} ${(depth + 1) * ROW}`);
    svg.setAttribute("height", (depth + 1) * ROW);
    block(focus, 0, wide, 0, describe(focus), "");
    place(focus, 0, wide, 1, depth + 1);
    let used = 0;
    svg.querySelectorAll("rect").forEach((r) => { used = Math.max(used, +r.getAttribute("y") + ROW); });
    svg.setAttribute("viewBox", `0 0 ${wide} ${used}`);
    svg.setAttribute("height", used);
    tip.textContent = describe(focus);
    rows();
  };

  const rows = () => {
    const accuracy = (n) => share(sums[metric][n], sums.images[n]);
    const orders = {
      size: (a, b) => sums[width][b] - sums[width][a], worst: (a, b) => accuracy(a) - accuracy(b),
      best: (a, b) => accuracy(b) - accuracy(a), name: (a, b) => tree.names[a].localeCompare(tree.names[b]),
    };
    const below = children[focus].slice().sort((a, b) => (b === marked) - (a === marked) || orders[order](a, b) || a - b);
    if (!below.length) { list.replaceChildren(); return; }
    const body = html("tbody");
    for (const n of below.slice(0, shownRows)) {
      const value = accuracy(n);
      const fill = html("span", { class: look(value) });
      fill.style.width = (value * 100).toFixed(1) + "%";
      const name = html("bdi", {}, tree.names[n]);
      const opener = button("", () => open(n), { title: tree.ids[n] });
      opener.append(name);
      body.append(html("tr", {}, html("th", { scope: "row" }, n === marked ? html("b", {}, opener) : opener),
        html("td", { class: "n" }, count(sums.classes[n])), html("td", { class: "n" }, count(sums.images[n])),
        html("td", { class: "n" }, percent(value)), html("td", {}, html("span", { class: "bar" }, fill))));
    }
    const head = html("thead", {}, html("tr", {}, ...[["below " + tree.names[focus], ""], ["classes", "n"], ["images", "n"], [metric === "top1" ? "top-1" : "top-5", "n"], ["", ""]]
      .map(([text, kind]) => html("th", kind ? { class: kind, scope: "col" } : { scope: "col" }, text))));
    const more = below.length > shownRows
      ? [button(`show ${count(Math.min(PAGE, below.length - shownRows))} more of ${count(below.length)}`, () => { shownRows += PAGE; rows(); })] : [];
    list.replaceChildren(html("div", { class: "scroll" }, html("table", {}, head, body)), ...more);
  };

  const choice = (label, options, current, set) => {
    const select = html("select");
    for (const [value, text] of options) select.append(html("option", value === current ? { value, selected: "" } : { value }, text));
    select.addEventListener("change", () => { set(select.value); draw(); });
    return html("label", {}, label + " ", select);
  };
  const search = html("input", { type: "search", placeholder: "find a class", "aria-label": "find a class" });
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLocaleLowerCase();
    found.replaceChildren();
    if (!wanted) return;
    const hits = [];
    for (let n = 0; n < N && hits.length < 400; n++)
      if (tree.names[n].toLocaleLowerCase().includes(wanted) || tree.ids[n].includes(wanted)) hits.push(n);
    hits.sort((a, b) => tree.names[a].length - tree.names[b].length || a - b);
    if (!hits.length) found.append(html("li", { class: "soft" }, "no class of this name"));
    for (const n of hits.slice(0, 16)) {
      const value = share(sums[metric][n], sums.images[n]);
      found.append(html("li", {}, button(`${tree.names[n]} ${percent(value)}`,
        () => (children[n].length || tree.parents[n] < 0 ? open(n) : open(tree.parents[n], n)), { title: tree.ids[n] })));
    }
  });
  const ramp = html("span", { class: "ramp" }, "0 %");
  for (let k = 0; k <= 10; k++) ramp.append(html("i", { class: "a" + k }));
  ramp.append("100 %");
  box.append(
    html("div", { class: "tools" }, search,
      choice("colour", [["top1", "top-1"], ["top5", "top-5"]], metric, (v) => { metric = v; }),
      choice("width", [["images", "images"], ["classes", "classes"]], width, (v) => { width = v; }),
      choice("list by", [["size", "size"], ["worst", "lowest accuracy"], ["best", "highest accuracy"], ["name", "name"]], order, (v) => { order = v; }),
      ramp),
    found, path, svg, tip, list);
  new ResizeObserver(() => draw()).observe(box);
  draw();
})();
