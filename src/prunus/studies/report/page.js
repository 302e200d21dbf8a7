"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  function element(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  function drawn(name, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const dot = (arm) => element("span", { class: "dot", style: `--colour:var(--arm-${arm})` });

  // Light and dark: the system's choice until the button is pressed, then the reader's.
  function theme() {
    const root = document.documentElement;
    const button = document.getElementById("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
    const name = () => (button.textContent = dark() ? "Light theme" : "Dark theme");
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      name();
    });
    system.addEventListener("change", name);
    name();
    button.hidden = false;
  }

  // One box for all tooltips, beside the pointer and inside the window.
  const tip = document.getElementById("tip");
  function show(title, under, rows, x, y) {
    const body = element("tbody");
    for (const [arm, ...cells] of rows)
      body.append(element("tr", {}, element("td", {}, dot(arm), data.arms[arm]), ...cells.map((c) => element("td", { class: "number" }, c))));
    tip.replaceChildren(element("strong", {}, title), element("span", {}, under), element("table", {}, body));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = x + 16 + width < innerWidth ? x + 16 : x - width - 16;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    tip.style.top = `${Math.max(8, Math.min(y + 16, innerHeight - height - 8))}px`;
  }
  let told = null; // the drawing that the tooltip is of

  // What pointing and the arrow keys do on a drawing with stops along x.
  // stops(): their x in units of the viewBox; tell(i, x, y): show stop i beside a place on the screen.
  function pointing(box, stops, frame, tell) {
    let current = -1;
    const guide = drawn("line", { class: "guide off" });
    const leave = () => {
      current = -1;
      guide.classList.add("off");
      if (told === box) tip.hidden = true;
    };
    const go = (i, y) => {
      const svg = box.querySelector("svg");
      const xs = stops();
      if (!svg || !xs.length) return;
      current = Math.max(0, Math.min(xs.length - 1, i));
      const [, top, , bottom] = frame();
      for (const [key, value] of Object.entries({ x1: xs[current], x2: xs[current], y1: top, y2: bottom })) guide.setAttribute(key, value);
      guide.classList.remove("off");
      svg.append(guide);
      const screen = svg.getScreenCTM();
      told = box;
      tell(current, xs[current] * screen.a + screen.e, y ?? top * screen.d + screen.f);
    };
    const point = (event) => {
      const svg = box.querySelector("svg");
      if (!svg) return;
      const screen = svg.getScreenCTM();
      const x = (event.clientX - screen.e) / screen.a;
      const xs = stops();
      go(xs.reduce((best, at, i) => (Math.abs(at - x) < Math.abs(xs[best] - x) ? i : best), 0), event.clientY);
    };
    box.addEventListener("pointermove", point);
    box.addEventListener("pointerdown", point);
    // A finger leaves when it is lifted: what it pointed at stays until it touches elsewhere.
    box.addEventListener("pointerleave", (event) => event.pointerType === "touch" || leave());
    box.addEventListener("blur", leave);
    box.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") leave();
      if (!step) return;
      event.preventDefault();
      go(current < 0 && step < 0 ? stops().length - 1 : current + step);
    });
    addEventListener("scroll", () => current < 0 || leave(), { passive: true });
  }

  // The figure: its legend and its panels.
  function figure() {
    const hidden = new Set();
    for (const button of all("[data-toggle]"))
      button.addEventListener("click", () => {
        const arm = button.dataset.toggle;
        const off = !hidden.delete(arm) && !!hidden.add(arm);
        button.setAttribute("aria-pressed", String(!off));
        for (const part of all(`.panel [data-arm="${arm}"]`)) part.classList.toggle("off", off);
      });
    all(".panel").forEach((box, i) => {
      const { title, unit, frame, stops } = data.panels[i];
      pointing(box, () => stops.map((stop) => stop.x), () => frame, (at, x, y) => {
        const { place, rows } = stops[at];
        const shown = rows.filter((row) => !hidden.has(row.arm));
        const counts = new Set(shown.map((row) => row.n));
        const n = counts.size === 1 ? `, n = ${shown[0].n}` : "";
        const cells = shown.map((row) => [row.arm, ...(row.name ? [row.name] : []), row.mean + (unit && ` ${unit}`), row.range, ...(n ? [] : [`n = ${row.n}`])]);
        show(title, place + n, cells, x, y);
      });
    });
  }

  // The explorer of training curves.
  function explorer() {
    const section = document.getElementById("explorer");
    if (!section) return;
    const { measures, grids, networks } = data.training;
    const form = section.querySelector("form");
    const { network: chosen, arm: ofArm, round: ofRound, measure: ofMeasure } = form.elements;
    const box = section.querySelector(".chart");
    const legend = section.querySelector(".chart-legend");
    const height = 320;
    const frame = [52, 10, 0, height - 46];
    let groups = [];
    let stops = [];
    let xs = [];

    const fill = (select, options) => {
      const before = select.value;
      select.replaceChildren(...options.map(([value, words]) => element("option", { value }, words)));
      if (options.some(([value]) => String(value) === before)) select.value = before;
    };
    const net = () => networks[Number(chosen.value)];

    function choices() {
      const cells = net().cells;
      const arms = Object.keys(data.arms).filter((arm) => cells.some((c) => c.arm === arm));
      fill(ofArm, [["", "all"], ...arms.map((arm) => [arm, data.arms[arm]])]);
      fill(ofRound, net().rounds.map((r) => [r.round, r.words]));
      fill(ofMeasure, measures.filter((m) => cells.some((c) => c[m.key])).map((m) => [m.key, m.words]));
    }

    // The cells to draw, grouped by arm, each with its trials and their mean where all trials have a value. What has a
    // name of its own, such as the dense network, is there whatever is chosen.
    function gather() {
      const key = ofMeasure.value;
      const round = Number(ofRound.value);
      const wanted = (c) => c.base || (c.round === round && (!ofArm.value || c.arm === ofArm.value));
      const byArm = new Map();
      for (const c of net().cells.filter((c) => c[key] && wanted(c))) {
        const arm = c.base || c.arm;
        if (!byArm.has(arm)) byArm.set(arm, []);
        byArm.get(arm).push({ stop: c.stop, values: new Map(grids[c.grid].map((at, i) => [at, c[key][i]])) });
      }
      return [...byArm].map(([arm, trials]) => {
        const shared = [...trials[0].values.keys()].filter((at) => trials.every((t) => Number.isFinite(t.values.get(at))));
        const mean = new Map(shared.map((at) => [at, trials.reduce((sum, t) => sum + t.values.get(at), 0) / trials.length]));
        return { arm, trials, mean };
      });
    }

    function ticks(low, high, most) {
      const raw = (high - low) / most || 1;
      const size = 10 ** Math.floor(Math.log10(raw));
      const step = [1, 2, 2.5, 5, 10].map((s) => s * size).find((s) => s >= raw);
      const found = [];
      for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(10)));
      return found;
    }

    // The range of the values without the worst tenth: low accuracies and high losses, those of the first steps.
    function range(values, isLoss) {
      const sorted = [...values].sort((a, b) => a - b);
      const cut = Math.floor(sorted.length / 10);
      const low = sorted[isLoss ? 0 : cut];
      const high = sorted[sorted.length - 1 - (isLoss ? cut : 0)];
      const margin = 0.04 * (high - low) || 0.5;
      return [isLoss ? Math.max(0, low - margin) : low - margin, high + margin];
    }

    function draw() {
      groups = gather();
      const values = groups.flatMap((g) => g.trials.flatMap((t) => [...t.values.values()])).filter(Number.isFinite);
      const width = Math.max(280, box.clientWidth);
      const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
      box.replaceChildren(svg);
      legend.replaceChildren();
      if (!values.length) {
        stops = xs = [];
        svg.append(drawn("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "There is no record of this choice."));
        return;
      }
      frame[2] = width - 14;
      const [left, top, right, bottom] = frame;
      const [low, high] = range(values, ofMeasure.value.endsWith("l"));
      stops = [...new Set(groups.flatMap((g) => [...g.mean.keys()]))].sort((a, b) => a - b);
      const end = Math.max(1, ...groups.flatMap((g) => g.trials.flatMap((t) => [...t.values.keys()])));
      const toX = (at) => left + (at / end) * (right - left);
      const toY = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
      xs = stops.map(toX);
      for (const v of ticks(low, high, 5)) {
        svg.append(drawn("line", { class: "grid", x1: left, x2: right, y1: toY(v), y2: toY(v) }));
        svg.append(drawn("text", { x: left - 8, y: toY(v) + 4, "text-anchor": "end" }, String(v)));
      }
      for (const at of ticks(0, end, width < 500 ? 4 : 8))
        svg.append(drawn("text", { x: toX(at), y: bottom + 20, "text-anchor": at >= end ? "end" : "middle" }, at.toLocaleString("en")));
      svg.append(drawn("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
      svg.append(drawn("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, "Iteration"));

      const clip = svg.appendChild(drawn("clipPath", { id: "chart-frame" }));
      clip.append(drawn("rect", { x: left, y: top, width: right - left, height: bottom - top }));
      const lines = svg.appendChild(drawn("g", { "clip-path": "url(#chart-frame)" }));
      const path = (points) =>
        [...points].filter(([, v]) => Number.isFinite(v)).map(([at, v], i) => `${i ? "L" : "M"}${toX(at).toFixed(1)},${toY(v).toFixed(1)}`).join("");
      for (const { arm, trials, mean } of [...groups].reverse()) {
        const colour = `stroke:var(--arm-${arm})`;
        if (trials.length > 1) for (const t of trials) lines.append(drawn("path", { class: "trial", style: colour, d: path(t.values) }));
        lines.append(drawn("path", { class: "mean", style: colour, d: path(mean), "data-arm": arm }));
        for (const t of trials) svg.append(drawn("line", { style: colour, "stroke-width": 1.5, x1: toX(t.stop), x2: toX(t.stop), y1: bottom, y2: bottom + 6 }));
      }
      for (const { arm, trials } of groups)
        legend.append(element("span", {}, dot(arm), `${data.arms[arm]}, ${trials.length} trial${trials.length > 1 ? "s" : ""}`));
    }

    fill(chosen, networks.map((n, i) => [i, n.name]));
    choices();
    ofRound.value = net().first;
    section.hidden = false;
    form.addEventListener("change", () => {
      choices();
      draw();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    new ResizeObserver(draw).observe(box);
    pointing(box, () => xs, () => frame, (at, x, y) => {
      const rows = groups.filter((g) => g.mean.has(stops[at])).map((g) => [g.arm, g.mean.get(stops[at]).toPrecision(4)]);
      const measure = measures.find((m) => m.key === ofMeasure.value).words;
      show(measure, `Iteration ${stops[at].toLocaleString("en")}, mean over trials`, rows, x, y);
    });
  }

  theme();
  figure();
  explorer();
})();
