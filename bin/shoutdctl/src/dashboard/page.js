"use strict";
// The server renders everything. This script puts new parts into the page, draws the tree of the
// chosen group, and handles the search and the keys.

const regions = ["summary", "networks", "hosts", "groups", "events"];
const SEPARATOR = "\u001f";
const REFRESH_MS = 5000;
const byId = (id) => document.getElementById(id);
let chosen = null; // { group, network } or { host }
let asked = 0;

function replace(id, html) {
  const region = byId(id);
  if (region.innerHTML === html) return;
  const active = document.activeElement;
  const focus = region.contains(active) ? { ...active.dataset } : null;
  region.innerHTML = html;
  if (focus) {
    const again = [...region.querySelectorAll("button")].find((button) =>
      Object.entries(focus).every(([name, value]) => button.dataset[name] === value));
    if (again) again.focus({ preventScroll: true });
  }
  if (id === "hosts" || id === "groups") { search(); mark(); }
}

function listen() {
  const source = new EventSource("changes");
  for (const id of regions) {
    source.addEventListener(id, (event) => {
      document.body.classList.remove("stale");
      replace(id, event.data);
    });
  }
  source.addEventListener("silent", (event) => {
    document.body.classList.add("stale");
    replace("summary", event.data);
  });
  source.onerror = () => document.body.classList.add("stale");
}

function search() {
  const words = byId("search").value.trim().toLowerCase();
  let found = 0;
  const matches = (element) => element.dataset.text.toLowerCase().includes(words);
  for (const host of document.querySelectorAll(".host")) {
    const chips = [...host.querySelectorAll(".chip")];
    const hits = chips.filter(matches);
    const whole = matches(host);
    for (const chip of chips) {
      chip.classList.toggle("misses", words !== "" && !whole && !hits.includes(chip));
    }
    host.classList.toggle("misses", words !== "" && !whole && hits.length === 0);
    found += hits.length + (whole ? 1 : 0);
  }
  for (const row of document.querySelectorAll(".group")) {
    const hit = matches(row);
    row.classList.toggle("misses", words !== "" && !hit);
    found += hit ? 1 : 0;
  }
  byId("found").textContent = words === "" ? "" : `${found} found`;
  draw();
}

function row() {
  if (!chosen || !chosen.group) return null;
  return [...document.querySelectorAll(".group")].find((row) =>
    row.dataset.group === chosen.group && row.dataset.network === chosen.network);
}

function keys(text) {
  return text ? text.split(SEPARATOR) : [];
}

function mark() {
  for (const old of document.querySelectorAll(".sends, .receives, .chosen")) {
    old.classList.remove("sends", "receives", "chosen");
  }
  const line = row();
  if (line) {
    line.classList.add("chosen");
    const chips = new Map(
      [...document.querySelectorAll(".chip")].map((chip) => [chip.dataset.key, chip]));
    for (const key of keys(line.dataset.senders)) chips.get(key)?.classList.add("sends");
    for (const key of keys(line.dataset.receivers)) chips.get(key)?.classList.add("receives");
  }
  draw();
}

// The tree: from each sender to the members, one line for each host.
function draw() {
  const tree = byId("tree");
  tree.replaceChildren();
  const line = row();
  if (!line) return;
  const stage = tree.getBoundingClientRect();
  const middle = (element) => {
    const box = element.getBoundingClientRect();
    return [box.left + box.width / 2 - stage.left, box.top + box.height / 2 - stage.top];
  };
  const seen = (element) => element.getClientRects().length > 0;
  const targets = new Map();
  for (const chip of document.querySelectorAll(".chip.receives")) {
    const host = chip.closest(".host");
    if (seen(chip) && !targets.has(host)) targets.set(host, chip);
  }
  const flows = line.dataset.rate !== "0";
  for (const sender of document.querySelectorAll(".chip.sends")) {
    if (!seen(sender)) continue;
    for (const target of targets.values()) {
      if (target === sender) continue;
      const [x1, y1] = middle(sender);
      const [x2, y2] = middle(target);
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      const bend = Math.max(40, Math.abs(y2 - y1) / 2);
      path.setAttribute("d", `M${x1},${y1} C${x1},${y1 - bend} ${x2},${y2 - bend} ${x2},${y2}`);
      if (flows) path.classList.add("flows");
      tree.append(path);
    }
  }
}

async function refresh() {
  if (!chosen) return;
  const number = ++asked;
  const path = chosen.host
    ? `host?${new URLSearchParams({ name: chosen.host })}`
    : `group?${new URLSearchParams({ network: chosen.network, group: chosen.group })}`;
  try {
    const answer = await fetch(path);
    const html = await answer.text();
    if (number === asked && chosen) {
      const content = byId("panel-content");
      if (content.innerHTML !== html) content.innerHTML = html;
    }
  } catch {
    document.body.classList.add("stale");
  }
}

function choose(what) {
  chosen = what;
  const panel = byId("panel");
  panel.hidden = !what;
  document.body.classList.toggle("open", what !== null);
  if (what) {
    const title = document.createElement("h2");
    title.id = "panel-title";
    title.textContent = what.host ?? `${what.group} on ${what.network}`;
    byId("panel-content").replaceChildren(title, "\u2026");
  }
  const hash = what ? `#${new URLSearchParams(what)}` : "#";
  history.replaceState(null, "", hash);
  mark();
  refresh();
}

function step(by) {
  const rows = [...document.querySelectorAll(".group:not(.misses) [data-open-group]")];
  if (rows.length === 0) return;
  const now = rows.findIndex((button) =>
    chosen && button.dataset.openGroup === chosen.group && button.dataset.ofNetwork === chosen.network);
  const next = rows[now < 0 ? (by > 0 ? 0 : rows.length - 1) : (now + by + rows.length) % rows.length];
  next.focus();
  choose({ group: next.dataset.openGroup, network: next.dataset.ofNetwork });
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "theme") theme();
  if (button.id === "close") choose(null);
  if (button.dataset.openHost) choose({ host: button.dataset.openHost });
  if (button.dataset.openGroup) {
    choose({ group: button.dataset.openGroup, network: button.dataset.ofNetwork });
  }
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.id === "search";
  if (event.key === "Escape") {
    if (typing && byId("search").value !== "") { byId("search").value = ""; search(); } else choose(null);
    return;
  }
  if (typing) return;
  if (event.key === "/") { event.preventDefault(); byId("search").focus(); }
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
  if (event.key === "t") theme();
});

byId("find").addEventListener("submit", (event) => event.preventDefault());
byId("search").addEventListener("input", search);
addEventListener("resize", draw);
const saved = localStorage.getItem("theme");
if (saved === "light" || saved === "dark") document.documentElement.dataset.theme = saved;
setInterval(refresh, REFRESH_MS);
const linked = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
if (linked.host) choose({ host: linked.host });
else if (linked.group && linked.network) choose({ group: linked.group, network: linked.network });
listen();
