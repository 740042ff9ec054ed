"use strict";
// Asks the daemon for its picture and shows it. Everything that comes from there is put in as text, never as markup.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const colours = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];

function make(kind, name, attributes, children) {
  const element = kind ? document.createElementNS(kind, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  for (const child of [].concat(children ?? [])) element.append(child);
  return element;
}
const el = (name, attributes, children) => make(null, name, attributes, children);
const svg = (name, attributes, children) => make(SVG, name, attributes, children);

function bytes(count) {
  if (count === null || count === undefined) return "?";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (unit + 1 < units.length && count >= 1023.95) { count /= 1024; unit += 1; }
  return `${count < 10 && unit ? count.toFixed(1).replace(/\.0$/, "") : Math.round(count)} ${units[unit]}`;
}

function span(seconds) {
  if (seconds === null || seconds === undefined) return "?";
  if (seconds < 9.95) return `${seconds.toFixed(1).replace(/\.0$/, "")} s`;
  for (const [most, size, name] of [[90, 1, "s"], [5400, 60, "min"], [172800, 3600, "h"], [Infinity, 86400, "d"]]) {
    if (seconds < most) return `${Math.round(seconds / size)} ${name}`;
  }
  return "";
}
const clock = (epoch, more) => new Date(epoch * 1000)
  .toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...more });
const colour = (index) => `var(${colours[index % colours.length]})`;
const mark = (node) => node.lag.replayed || node.lag.flushed || node.lag.relayed || node.lag.archived;

let picture = null, series = null, heard = 0;

function header(view) {
  document.title = `${view.level === "ok" ? "" : "● "}${view.cluster} – pgwarm`;
  $("cluster").textContent = view.cluster;
  const reference = view.reference;
  $("where").textContent = view.primary
    ? `${view.primary} is the primary, at ${reference.lsn} on timeline ${reference.timeline}`
    : `no primary answers${reference ? `; known up to ${reference.lsn}` : ""}`;
  const bad = view.findings.filter((one) => one.level !== "ok");
  const count = (level) => bad.filter((one) => one.level === level).length;
  const words = ["critical", "warning", "unknown"].filter(count).map((level) => `${count(level)} ${level}`);
  $("verdict").textContent = words.length ? words.join(" · ") : "All is well";
  $("verdict").className = `pill ${view.level}`;
  $("foot").textContent = `seen from ${view.observer} · ${view.findings.length} things looked at · ` +
    (view.synchronous_standby_names ? `synchronous: ${view.synchronous_standby_names}` : "no synchronous standbys");
}

function findings(view) {
  const order = ["critical", "warning", "unknown"];
  const bad = view.findings.filter((one) => one.level !== "ok")
    .sort((a, b) => order.indexOf(a.level) - order.indexOf(b.level));
  $("findings-card").hidden = !bad.length;
  $("findings").replaceChildren(...bad.map((one) => el("li", {}, [
    el("span", { class: `tag ${one.level}` }, one.level),
    el("b", {}, `${one.check} ${one.subject}`),
    el("span", {}, one.message),
    ...(one.fix ? [el("span", { class: "fix" }, one.fix)] : []),
  ])));
}

function paths(view) {
  const names = ["sent", "written", "flushed", "replayed", "archived", "relayed", "restorable"];
  $("paths").tHead.replaceChildren(el("tr", {}, ["node", "role", ...names, "to its upstream"].map((name) => el("th", {}, name))));
  const cell = (one) => one
    ? el("td", {}, [bytes(one.bytes), el("small", {}, span(one.seconds))])
    : el("td", { class: "none" }, "–");
  const hop = (one) => one ? `${bytes(one.bytes)} behind ${one.upstream}` : "";
  $("paths").tBodies[0].replaceChildren(...view.nodes.map((node) => el("tr", {}, [
    el("td", {}, node.name),
    el("td", {}, node.role + (node.replication ? ` · ${node.replication}` : "")),
    ...names.map((name) => cell(node.lag[name])),
    el("td", {}, hop(node.lag.hop)),
  ])));
}

function events(all) {
  const now = Date.now() / 1000;
  // What could not be written down at once has a later number, and an earlier time.
  const shown = [...all].sort((a, b) => b.epoch - a.epoch).slice(0, 30).map((one) => el("li", { title: one.time }, [
    el("time", {}, now - one.epoch < 86400 ? clock(one.epoch, { second: "2-digit" }) : new Date(one.epoch * 1000).toLocaleDateString()),
    el("div", {}, [
      el("b", { class: one.successful ? "" : "critical" }, one.event.replaceAll("_", " ")), " ", one.node,
      ...(one.details ? [el("div", { class: "detail" }, one.details)] : []),
    ]),
  ]));
  $("events").replaceChildren(...(shown.length ? shown : [el("li", {}, "nothing has happened yet")]));
}

function banner(view) {
  const gone = heard && Date.now() - heard > 6000;
  const pause = view && view.pause;
  $("banner").hidden = !gone && !pause;
  $("banner").className = gone ? "" : "pause";
  $("banner").textContent = gone
    ? `The daemon has not answered for ${span((Date.now() - heard) / 1000)}: what is shown is old.`
    : pause ? `Paused by ${pause.node} since ${pause.since}${pause.until ? `, until ${pause.until}` : ""}${pause.reason ? `: ${pause.reason}` : ""}` : "";
  $("freshness").className = gone ? "old" : "";
  $("freshness").lastElementChild.textContent = view ? `seen ${span(Math.max(0, Date.now() / 1000 - view.epoch))} ago` : "no picture yet";
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(4000) });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function look() {
  try {
    picture = await ask("status.json");
    heard = Date.now();
    header(picture);
    findings(picture);
    topology(picture);
    paths(picture);
    archives(picture);
  } catch { heard = heard || 1; }
  banner(picture);
}

async function remember() {
  try {
    series = await ask("series.json");
    plot();
    events(await ask("events.json"));
  } catch { /* the banner says it */ }
}

$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.theme = root.dataset.theme; } catch { /* it holds until the page is left */ }
});
try { if (localStorage.theme) document.documentElement.dataset.theme = localStorage.theme; } catch { /* the system's */ }
addEventListener("resize", plot);
look().then(remember);
setInterval(look, 2000);
setInterval(remember, 5000);
setInterval(() => banner(picture), 1000);
