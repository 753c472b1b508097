// Learning curves: lines on shared, zoomable axes. Plain SVG, no library.
"use strict";
(() => {
  const source = document.getElementById("curves-data");
  const box = document.getElementById("charts");
  if (!source || !box) return;
  const data = JSON.parse(source.textContent);
  const LEFT = 52, RIGHT = 10, TOP = 8, BOTTOM = 24;
  const all = data.charts.flatMap((chart) => chart.series.flatMap((s) => s.x));
  if (!all.length) return;
  const full = [Math.min(0, all.reduce((a, b) => Math.min(a, b))), all.reduce((a, b) => Math.max(a, b))];
  let view = full.slice(), logarithmic = false;
  const panels = [];

  const ticks = (low, high, count) => {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw) || raw;
    const found = [];
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + 1e-9 * step; t += step) found.push(t);
    return found;
  };
  const logTicks = (low, high) => {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
      for (const m of [1, 2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) found.push(m * 10 ** e);
    return found;
  };
  const number = (value, unit) => {
    if (unit === "%") return +(value * 100).toFixed(1) + "\u00a0%";
    const size = Math.abs(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    if (size && size < 1e-3) return value.toExponential(1);
    return String(+value.toPrecision(3));
  };

  class Panel {
    constructor(chart) {
      this.chart = chart;
      this.hidden = new Set();
      this.svg = make("svg", { tabindex: "0", role: "img", "aria-label": chart.title + " over " + data.unit });
      this.keys = html("ul", { class: "keys" });
      this.outputs = chart.series.map((series) => {
        const output = html("output");
        const stroke = html("span", {
          class: "stroke s" + series.colour + (series.dashed ? " dashed" : "") + (series.faint ? " faint" : ""),
        });
        const button = html("button", { type: "button", "aria-pressed": "true" }, stroke, series.name + " ", output);
        button.addEventListener("click", () => {
          this.hidden.has(series) ? this.hidden.delete(series) : this.hidden.add(series);
          button.setAttribute("aria-pressed", String(!this.hidden.has(series)));
          this.draw();
        });
        this.keys.append(html("li", {}, button));
        return output;
      });
      const small = chart.id === "lr" || chart.id === "speed";
      const unit = chart.unit && chart.unit !== "%" ? " (" + chart.unit + ")" : "";
      const title = html("h3", {}, chart.title + unit);
      this.element = html("figure", { class: "chart" + (small ? " small" : "") }, html("header", {}, title, this.keys), this.svg);
      this.listen();
    }

    listen() {
      let from = null;
      this.svg.addEventListener("pointerdown", (event) => {
        from = this.at(event);
        this.svg.setPointerCapture(event.pointerId);
      });
      this.svg.addEventListener("pointermove", (event) => {
        const x = this.at(event);
        panels.forEach((panel) => panel.point(x));
        if (from !== null) panels.forEach((panel) => panel.brush(from, x));
      });
      this.svg.addEventListener("pointerup", (event) => {
        const to = this.at(event), start = from;
        from = null;
        panels.forEach((panel) => panel.brush(0, 0));
        if (start !== null && Math.abs(this.x(to) - this.x(start)) > 8) zoom(Math.min(start, to), Math.max(start, to));
      });
      this.svg.addEventListener("pointercancel", () => { from = null; panels.forEach((panel) => panel.brush(0, 0)); });
      this.svg.addEventListener("pointerleave", () => panels.forEach((panel) => panel.point(null)));
      this.svg.addEventListener("dblclick", () => zoom(...full));
      this.svg.addEventListener("keydown", (event) => {
        const width = view[1] - view[0];
        const moves = {
          "+": () => scale(0.5), "=": () => scale(0.5), "-": () => scale(2), "0": () => zoom(...full),
          ArrowLeft: () => zoom(view[0] - width / 4, view[1] - width / 4),
          ArrowRight: () => zoom(view[0] + width / 4, view[1] + width / 4),
        };
        if (moves[event.key]) { moves[event.key](); event.preventDefault(); }
      });
    }

    at(event) {
      const box = this.svg.getBoundingClientRect();
      const share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
      return view[0] + Math.min(Math.max(share, 0), 1) * (view[1] - view[0]);
    }

    x(value) { return LEFT + ((value - view[0]) / (view[1] - view[0])) * (this.width - LEFT - RIGHT); }

    range(shown) {
      let values = [];
      for (const s of shown)
        s.x.forEach((x, k) => { if (x >= view[0] && x <= view[1]) values.push(s.y[k]); });
      if (!values.length) values = shown.flatMap((s) => s.y);
      if (!values.length) return [0, 1];
      values = values.slice().sort((a, b) => a - b);
      const pick = (q) => values[Math.min(values.length - 1, Math.floor(q * values.length))];
      // A few outliers do not decide the axis, as in learning_curve.png.
      const usual = pick(0.95) + 3 * Math.max(pick(0.95) - pick(0.05), 0.1 * Math.abs(pick(0.95)));
      let low = values[0], high = Math.min(values[values.length - 1], usual);
      if (this.chart.unit === "%" || this.chart.id === "lr" || this.chart.id === "speed") low = this.chart.id === "lr" || !this.zoomed() ? 0 : low;
      if (low === high) { low -= Math.abs(low) * 0.1 || 0.5; high += Math.abs(high) * 0.1 || 0.5; }
      const margin = 0.04 * (high - low);
      return [low === 0 ? 0 : low - margin, high + margin];
    }

    zoomed() { return view[0] > full[0] || view[1] < full[1]; }

    draw() {
      const { svg, chart } = this;
      this.width = svg.clientWidth || 600;
      const height = svg.clientHeight || 240, base = height - BOTTOM;
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
      const shown = chart.series.filter((s) => !this.hidden.has(s));
      let [low, high] = this.range(shown);
      const log = logarithmic && chart.id === "loss" && shown.length > 0;
      if (log) low = Math.max(low, Math.min(...shown.map((s) => s.y.reduce((a, b) => (b > 0 && b < a ? b : a), Infinity))) * 0.9, 1e-9);
      const to = log ? Math.log10 : (v) => v;
      const y = (value) => base - ((to(Math.max(value, log ? 1e-9 : value)) - to(low)) / (to(high) - to(low))) * (base - TOP);
      for (const t of log ? logTicks(low, high) : ticks(low, high, height < 180 ? 3 : 5)) {
        make("path", { class: "grid", d: `M${LEFT} ${y(t)}H${this.width - RIGHT}` }, svg);
        make("text", { x: LEFT - 6, y: y(t) + 4, "text-anchor": "end" }, svg, number(t, chart.unit));
      }
      for (const t of ticks(view[0], view[1], Math.max(2, Math.floor(this.width / 90))))
        make("text", { x: this.x(t), y: height - 8, "text-anchor": "middle" }, svg, number(t, ""));
      make("text", { x: LEFT - 14, y: height - 8, "text-anchor": "end" }, svg, data.unit);
      const clip = "clip-" + chart.id;
      const frame = { x: LEFT, y: TOP - 4, width: Math.max(1, this.width - LEFT - RIGHT), height: base - TOP + 4 };
      make("rect", frame, make("clipPath", { id: clip }, svg));
      for (const change of data.changes) {
        const line = make("path", { class: "change", d: `M${this.x(change.x)} ${TOP}V${base}`, "clip-path": `url(#${clip})` }, svg);
        make("title", {}, line, change.text);
      }
      const group = make("g", { "clip-path": `url(#${clip})` }, svg);
      for (const s of shown) {
        const points = s.x.map((x, k) => this.x(x).toFixed(1) + " " + y(s.y[k]).toFixed(1));
        const look = `line s${s.colour}` + (s.faint ? " faint" : "") + (s.dashed ? " dashed" : "");
        if (points.length > 1) make("path", { class: look, d: "M" + points.join("L") }, group);
        if (s.x.length < 60 && !s.faint)
          s.x.forEach((x, k) => make("circle", { class: "dot s" + s.colour, cx: this.x(x), cy: y(s.y[k]), r: points.length > 1 ? 2.4 : 4 }, group));
      }
      this.rule = make("path", { class: "rule", d: "" }, svg);
      this.selection = make("rect", { class: "brush", y: TOP, height: base - TOP, width: 0 }, svg);
      this.base = base;
      this.point(null);
    }

    point(x) {
      this.rule.setAttribute("d", x === null ? "" : `M${this.x(x).toFixed(1)} ${TOP}V${this.base}`);
      this.chart.series.forEach((s, k) => {
        let text = "";
        if (s.y.length) {
          let best = s.y.length - 1;
          if (x !== null) s.x.forEach((value, n) => { if (Math.abs(value - x) < Math.abs(s.x[best] - x)) best = n; });
          text = number(s.y[best], this.chart.unit);
        }
        this.outputs[k].textContent = text;
      });
    }

    brush(from, to) {
      const a = this.x(Math.min(from, to)), b = this.x(Math.max(from, to));
      this.selection.setAttribute("x", a);
      this.selection.setAttribute("width", Math.max(0, b - a));
    }
  }

  const zoom = (low, high) => {
    const least = (full[1] - full[0]) / 1e4;
    const width = Math.min(Math.max(high - low, least), full[1] - full[0]);
    low = Math.min(Math.max(low, full[0]), full[1] - width);
    view = [low, low + width];
    panels.forEach((panel) => panel.draw());
  };
  const scale = (factor) => {
    const middle = (view[0] + view[1]) / 2, half = ((view[1] - view[0]) / 2) * factor;
    zoom(middle - half, middle + half);
  };
  const button = (text, label, action) => {
    const element = html("button", { type: "button", "aria-label": label }, text);
    element.addEventListener("click", action);
    return element;
  };
  const log = button("log scale of losses", "logarithmic scale of losses", () => {
    logarithmic = !logarithmic;
    log.setAttribute("aria-pressed", String(logarithmic));
    panels.forEach((panel) => panel.draw());
  });
  log.setAttribute("aria-pressed", "false");
  box.append(html("div", { class: "tools" },
    button("zoom in", "zoom in", () => scale(0.5)), button("zoom out", "zoom out", () => scale(2)),
    button("everything", "show everything", () => zoom(...full)), log));
  for (const chart of data.charts) {
    const panel = new Panel(chart);
    panels.push(panel);
    box.append(panel.element);
  }
  new ResizeObserver(() => panels.forEach((panel) => panel.draw())).observe(box);
  panels.forEach((panel) => panel.draw());
})();
