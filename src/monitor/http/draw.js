"use strict";
// The drawings: who follows whom, lag over time, and what the archives hold.
const CARD = { width: 250, height: 98, gapX: 158, gapY: 20 };

/// Where each node stands: the primary on the left, whoever follows it to the right, a row for each leaf.
function places(view) {
  const parent = (node) => {
    if (node.name === view.primary) return null;
    if (node.upstream) return { name: node.upstream, way: "stream" };
    if (!view.primary || view.rivals.includes(node.name) || node.role === "unknown") return null;
    return { name: view.primary, way: node.role === "witness" ? "vote" : "archive" };
  };
  const parents = new Map(view.nodes.map((node) => [node.name, parent(node)]));
  const children = (name) => view.nodes.filter((node) => parents.get(node.name)?.name === name);
  const found = new Map();
  let row = 0;
  const place = (node, depth) => {
    if (found.has(node.name)) return found.get(node.name).y;
    const spot = { node, x: depth * (CARD.width + CARD.gapX), y: 0, link: parents.get(node.name) };
    found.set(node.name, spot);
    const below = children(node.name).map((child) => place(child, depth + 1));
    spot.y = below.length ? (below[0] + below[below.length - 1]) / 2 : (row++) * (CARD.height + CARD.gapY);
    return spot.y;
  };
  const roots = view.nodes.filter((node) => !parents.get(node.name)).sort((a, b) => (b.name === view.primary) - (a.name === view.primary));
  roots.forEach((node) => place(node, 0));
  // A circle of standbys has no root.
  view.nodes.forEach((node) => place(node, 0));
  return found;
}

function topology(view) {
  const found = [...places(view).values()];
  const width = Math.max(...found.map((spot) => spot.x)) + CARD.width;
  const height = Math.max(...found.map((spot) => spot.y)) + CARD.height;
  const byName = new Map(found.map((spot) => [spot.node.name, spot]));
  const edges = found.filter((spot) => spot.link && byName.has(spot.link.name)).flatMap((spot) => edge(byName.get(spot.link.name), spot));
  const root = $("topology");
  root.setAttribute("viewBox", `-2 -2 ${width + 4} ${height + 4}`);
  // Cards stay of one size, however few there are.
  root.style.maxWidth = `${Math.round(width * 1.2)}px`;
  root.replaceChildren(...edges, ...found.map((spot) => card(view, spot)));
}

function edge(from, to) {
  const [x1, y1] = [from.x + CARD.width, from.y + CARD.height / 2];
  const [x2, y2] = [to.x - 7, to.y + CARD.height / 2];
  const middle = (x1 + x2) / 2;
  const node = to.node;
  const sync = ["sync", "quorum"].includes(node.sync_state);
  const way = to.link.way === "stream" ? (sync ? "sync" : "") : to.link.way;
  const words = {
    stream: [node.sync_state && node.sync_state !== "async" ? node.sync_state : "streams", node.lag.hop ? null : node.lag.flushed && bytes(node.lag.flushed.bytes)],
    archive: [node.kind === "dr" && !node.replication ? "relayed" : "from the archive"],
    vote: ["votes"],
  }[to.link.way];
  return [
    svg("path", { class: `edge ${way}`, d: `M${x1} ${y1} C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}` }),
    svg("path", { class: "arrow", d: `M${x2 + 6} ${y2} l-8 -4.5 v9 z` }),
    svg("text", { class: "label", x: (middle + x2) / 2 - 12, y: y2 - 8 }, words.filter(Boolean).join(" · ")),
  ];
}

function card(view, { node, x, y }) {
  const worst = view.findings.filter((one) => one.subject.split(/[/ ]/)[0] === node.name).map((one) => one.level);
  const level = ["critical", "warning", "unknown"].find((one) => worst.includes(one)) || "ok";
  const behind = mark(node);
  const state = node.witness ? (node.witness.copy_age_seconds === null ? "keeps no copy" : `keeps a copy, ${span(node.witness.copy_age_seconds)} old`)
    : node.state === "running"
    ? `timeline ${node.timeline}${node.replay_paused ? " · replay paused" : ""}${node.apply_delay_seconds ? ` · delayed ${span(node.apply_delay_seconds)}` : ""}`
    : node.state === "no server" ? (node.role === "witness" ? "holds no data" : "holds an archive") : `${node.state} for ${span(node.unseen_seconds)}`;
  const distance = node.name === view.primary ? `at ${view.reference.lsn}`
    : behind ? `${bytes(behind.bytes)} behind · ${span(behind.seconds)}` : "";
  const archive = node.lag.archived || (node.role === "dr" ? null : node.lag.relayed);
  const daemon = node.report_age_seconds === null ? "no daemon" : node.name === view.observer ? "seen from here" : `daemon spoke ${span(node.report_age_seconds)} ago`;
  const pill = node.role === "primary" && view.rivals.includes(node.name) ? "RIVAL" : node.role.toUpperCase();
  const pillWidth = pill.length * 7.6 + 16;
  return svg("g", { transform: `translate(${x} ${y})` }, [
    svg("title", {}, node.trouble || `${node.name}: ${state}`),
    svg("rect", { class: "box", width: CARD.width, height: CARD.height, rx: 12 }),
    svg("rect", { width: 5, height: CARD.height - 24, x: 0, y: 12, rx: 2.5, fill: `var(--${{ ok: "good", warning: "warn", critical: "bad", unknown: "unknown" }[level]})` }),
    svg("text", { class: "name", x: 18, y: 28 }, node.name),
    svg("rect", { x: CARD.width - pillWidth - 12, y: 13, width: pillWidth, height: 20, rx: 10, fill: node.role === "primary" ? "var(--good-bg)" : "var(--faint)" }),
    svg("text", { class: "role", x: CARD.width - pillWidth / 2 - 12, y: 27, "text-anchor": "middle", style: node.role === "primary" ? "fill:var(--good)" : "fill:var(--soft)" }, pill),
    svg("text", { x: 18, y: 50, style: level === "critical" && node.trouble ? "fill:var(--bad)" : null }, state),
    svg("text", { x: 18, y: 68 }, distance),
    svg("text", { class: "soft", x: 18, y: 86 }, archive ? `archive ${bytes(archive.bytes)} behind` : daemon),
  ]);
}

/// A scale that ends at a round number of binary units.
function ticks(most) {
  let step = 1024;
  while (step * 4 < most) step *= 2;
  return [0, 1, 2, 3, 4].map((count) => count * step);
}

function plot() {
  if (!series || !picture) return;
  const box = $("plot"), root = box.firstElementChild;
  const width = box.clientWidth, height = box.clientHeight, left = 64, bottom = 24, top = 8;
  const last = series.at.at(-1) ?? Date.now() / 1000;
  // An hour, or as long as the daemon remembers.
  const length = Math.min(3600, Math.max(300, last - (series.at[0] ?? last))), first = last - length;
  const names = picture.nodes.map((node) => node.name).filter((name) => series.nodes[name]?.some((value) => value !== null));
  const most = Math.max(4096, ...names.flatMap((name) => series.nodes[name].filter((value) => value !== null)));
  const scale = ticks(most), high = scale.at(-1);
  const x = (at) => left + ((at - first) / length) * (width - left - 8);
  const y = (value) => top + (1 - value / high) * (height - top - bottom);
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const shapes = [];
  for (const value of scale) {
    shapes.push(svg("line", { class: "grid", x1: left, x2: width - 8, y1: y(value), y2: y(value) }));
    shapes.push(svg("text", { x: left - 10, y: y(value) + 4, "text-anchor": "end" }, bytes(value)));
  }
  const pace = length > 1800 ? 600 : length > 600 ? 120 : 60;
  for (let at = Math.ceil(first / pace) * pace; at <= last; at += pace) {
    const anchor = x(at) > width - 30 ? "end" : x(at) < left + 22 ? "start" : "middle";
    shapes.push(svg("text", { x: x(at), y: height - 6, "text-anchor": anchor }, clock(at)));
  }
  names.forEach((name) => shapes.push(...line(series.nodes[name], series.at, x, y, colour(order(name)))));
  root.replaceChildren(...shapes);
  box.onpointermove = (event) => point(event, names, { x, y, first, last, left, width });
  box.onpointerleave = () => { $("tip").hidden = true; root.querySelector(".cursor")?.remove(); };
  $("legend").replaceChildren(...names.map((name) => {
    const now = mark(picture.nodes.find((node) => node.name === name));
    return el("span", {}, [el("i", { style: `background:${colour(order(name))}` }), name, el("b", {}, now ? `${bytes(now.bytes)} · ${span(now.seconds)}` : "unknown")]);
  }));
}
const order = (name) => picture.nodes.findIndex((node) => node.name === name);

/// A line with a break wherever nothing is known, and a faint area below it.
function line(values, times, x, y, stroke) {
  const stretches = [];
  let open = null;
  values.forEach((value, at) => {
    if (value === null || (open && times[at] - times[at - 1] > Math.max(30, 2.5 * series.step))) open = null;
    if (value === null) return;
    if (!open) stretches.push(open = []);
    open.push([x(times[at]), y(value)]);
  });
  const path = (points) => points.map(([px, py], at) => `${at ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
  const area = (points) => `${path(points)}L${points.at(-1)[0].toFixed(1)} ${y(0)}L${points[0][0].toFixed(1)} ${y(0)}Z`;
  return [
    svg("path", { class: "area", style: `fill:${stroke}`, d: stretches.map(area).join("") }),
    svg("path", { style: `stroke:${stroke}`, d: stretches.map(path).join("") }),
  ];
}

function point(event, names, { x, first, last, left, width }) {
  const box = $("plot").getBoundingClientRect();
  const at = first + ((event.clientX - box.left - left) / (width - left - 8)) * (last - first);
  let nearest = 0;
  series.at.forEach((time, index) => { if (Math.abs(time - at) < Math.abs(series.at[nearest] - at)) nearest = index; });
  const px = x(series.at[nearest]);
  const root = $("plot").firstElementChild;
  root.querySelector(".cursor")?.remove();
  root.append(svg("line", { class: "cursor", x1: px, x2: px, y1: 8, y2: box.height - 24 }));
  $("tip").hidden = false;
  $("tip").style[px > width / 2 ? "right" : "left"] = `${px > width / 2 ? width - px + 12 : px + 12}px`;
  $("tip").style[px > width / 2 ? "left" : "right"] = "auto";
  $("tip").replaceChildren(el("b", {}, clock(series.at[nearest])), ...names.map((name) => el("div", {}, `${name}: ${bytes(series.nodes[name][nearest])}`)));
}

function archives(view) {
  const holders = view.nodes.filter((node) => node.report?.archive);
  const drawn = holders.map((node) => {
    const archive = node.report.archive.Ok;
    const behind = node.lag.archived || node.lag.relayed;
    const said = archive ? (behind ? `${bytes(behind.bytes)} behind` : "empty") : node.report.archive.Err;
    const free = node.report.archive_free === null ? "" : ` · ${Math.round(node.report.archive_free)} % of the disk free`;
    return el("div", { class: "archive" }, [
      el("h3", {}, [node.name, el("span", {}, said + free)]),
      ...(archive ? archive.timelines.map((bar) => timeline(bar, archive)) : []),
      ...(archive ? [el("p", {}, backups(view, node, archive))] : []),
    ]);
  });
  $("archives").replaceChildren(...(drawn.length ? drawn : [el("p", {}, "no node has spoken of an archive yet")]));
}

/// What one timeline holds, with what is missing in red and a mark for each backup.
function timeline(bar, archive) {
  const stretches = [...bar.held, ...bar.gaps];
  const from = Math.min(...stretches.map(([begin]) => begin)), to = Math.max(...stretches.map(([, end]) => end));
  const width = 600, x = (at) => 42 + ((at - from) / Math.max(1, to - from)) * (width - 42);
  // A gap is seen however narrow it is.
  const rect = (kind, least) => ([begin, end]) => {
    const wide = Math.max(least, x(end) - x(begin));
    return svg("rect", { class: kind, x: Math.min(x(begin), width - wide), y: 8, width: wide, height: 14, rx: Math.min(3, wide / 2) });
  };
  const position = (text) => { const [high, low] = text.split("/"); return parseInt(high, 16) * 4294967296 + parseInt(low, 16); };
  const here = archive.backups.filter((one) => one.stop && position(one.stop) >= from && position(one.stop) <= to);
  return svg("svg", { viewBox: `0 0 ${width} 28`, role: "img", "aria-label": `timeline ${bar.timeline}: ${bar.gaps.length} gaps` }, [
    svg("text", { x: 0, y: 19 }, `tli ${bar.timeline}`),
    svg("rect", { class: "track", x: 42, y: 8, width: width - 42, height: 14, rx: 3 }),
    ...bar.held.map(rect("held", 2)), ...bar.gaps.map(rect("gap", 5)),
    ...here.map((one) => svg("path", { class: "backup", d: `M${x(position(one.stop))} 7 l-4.5 -7 h9 z` }, svg("title", {}, one.label))),
  ]);
}

function backups(view, node, archive) {
  const newest = archive.backups.at(-1);
  const words = [newest ? `${archive.backups.length} backup${archive.backups.length > 1 ? "s" : ""}, the newest ${span(view.epoch - newest.finished)} old` : "no backup"];
  if (archive.missing) words.push(`${archive.missing} segment${archive.missing > 1 ? "s" : ""} missing`);
  const reach = node.lag.restorable;
  if (reach) words.push(`can be restored to ${reach.seconds === null ? `${bytes(reach.bytes)} behind` : `${span(reach.seconds)} ago`}`);
  const drill = node.report.drill;
  words.push(drill ? `${drill.successful ? "last restore proven" : "last drill FAILED"} ${span(view.epoch - drill.at)} ago` : "no restore proven yet");
  return words.join(" · ");
}
