"use strict";
// A small number, as `short` in curves.py writes it.
const short = (value) =>
  Math.abs(value) >= 1000 && Math.abs(value) < 1e7 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));

const drawn = (parent, name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return parent.appendChild(made);
};

const placed = (svg, event) => {
  const matrix = svg.getScreenCTM();
  return matrix ? new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse()) : { x: 0, y: 0 };
};

for (const svg of document.querySelectorAll(".plot[data-plot]")) {
  const { box, x: ends, y: range, label, series } = JSON.parse(svg.dataset.plot);
  const [left, top, right, bottom] = box;
  const output = svg.closest("figure").querySelector("output");
  const latest = output.textContent;
  const across = (x) => left + ((x - ends[0]) / (ends[1] - ends[0])) * (right - left);
  const down = (y) => bottom - ((y - range[0]) / (range[1] - range[0])) * (bottom - top);
  let marks = [];
  const clear = () => {
    marks.forEach((mark) => mark.remove());
    marks = [];
    output.textContent = latest;
  };
  svg.addEventListener("pointerleave", clear);
  svg.addEventListener("pointermove", (event) => {
    clear();
    const at = ends[0] + ((placed(svg, event).x - left) / (right - left)) * (ends[1] - ends[0]);
    const told = [];
    let nearest = null;
    series.forEach(({ name, x, y }, number) => {
      let best = -1;
      for (let i = 0; i < x.length; i++) {
        if (y[i] !== null && (best < 0 || Math.abs(x[i] - at) < Math.abs(x[best] - at))) best = i;
      }
      if (best < 0) return;
      if (nearest === null || Math.abs(x[best] - at) < Math.abs(nearest - at)) nearest = x[best];
      marks.push(drawn(svg, "circle", { class: `dot c${number % 12}`, cx: across(x[best]), cy: down(y[best]), r: 3.5 }));
      told.push(series.length > 1 ? `${name} ${short(y[best])}` : short(y[best]));
    });
    if (nearest === null) return;
    marks.push(drawn(svg, "line", { class: "cursor", x1: across(nearest), x2: across(nearest), y1: top, y2: bottom }));
    output.textContent = `${told.join(" · ")} at ${label} ${short(nearest)}`;
  });
}

for (const figure of document.querySelectorAll("figure.map")) {
  const svg = figure.querySelector("svg");
  const tip = figure.querySelector(".tip");
  const [image, name, label] = tip.children;
  const items = [...svg.querySelectorAll(".item")].map((node) => ({ node, x: +node.dataset.x, y: +node.dataset.y }));
  let lit = null;
  const clear = () => {
    if (lit) lit.node.classList.remove("lit");
    lit = null;
    tip.hidden = true;
  };
  svg.addEventListener("pointerleave", clear);
  const show = (event) => {
    const { x, y } = placed(svg, event);
    let found = event.target.closest(".item");
    found = found && items.find((item) => item.node === found);
    if (!found) {
      let best = 18;
      for (const item of items) {
        const away = Math.hypot(item.x - x, item.y - y);
        if (away < best) [best, found] = [away, item];
      }
    }
    if (found !== lit) {
      clear();
      if (!found) return;
      lit = found;
      lit.node.classList.add("lit");
      image.src = document.getElementById(`item-${lit.node.dataset.item}`).getAttribute("href");
      name.textContent = lit.node.dataset.name;
      label.textContent = lit.node.dataset.label ?? "";
      tip.hidden = false;
    }
    if (!lit) return;
    const area = figure.getBoundingClientRect();
    const beside = event.clientX - area.left + 18;
    tip.style.left = `${beside + tip.offsetWidth > area.width ? beside - tip.offsetWidth - 36 : beside}px`;
    tip.style.top = `${Math.min(event.clientY - area.top + 12, area.height - tip.offsetHeight - 8)}px`;
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
}
