"use strict";
// What pages do beyond links and forms. All of them work without it, but for the live tail.
const page = document.documentElement;
page.classList.add("js");

// Back after signing out: a page that a browser kept in memory is asked for again.
addEventListener("pageshow", (event) => event.persisted && location.reload());

// A one-time link carries its secret behind the #, which browsers send to nobody: it leaves with the form, and the address.
const link = document.querySelector("form[data-link=new]");
if (link && location.hash.length > 1) {
  link.elements.secret.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  link.requestSubmit();
}

// Parts of pages that are asked for again, as whole pages of which one part is taken.
const part = async (address, id) => {
  const answer = await fetch(address, { headers: { accept: "text/html" }, cache: "no-store" });
  if (answer.status === 401 || answer.redirected) return location.reload(); // signed out meanwhile
  if (!answer.ok) return;
  const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(id);
  if (found) document.getElementById(id).replaceChildren(...found.childNodes);
};
for (const element of document.querySelectorAll("[data-refresh]")) {
  const again = () => (document.hidden ? Promise.resolve() : part(location.href, element.id).catch(() => {}));
  const next = () => setTimeout(() => again().then(next), 1000 * element.dataset.refresh);
  next();
}

// The slider: the state at the instant it points to, and a line through the plot there.
const utc = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ") + " UTC";
const plot = document.querySelector("[data-plot]");
const share = (seconds) => (seconds - plot.dataset.since) / Math.max(plot.dataset.until - plot.dataset.since, 1);
const point = (seconds) => {
  const x = share(seconds) * 1000;
  for (const line of plot?.querySelectorAll(".instant") ?? []) {
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
  }
};
const slider = document.querySelector("form[data-state]");
if (slider) {
  const at = slider.elements.at;
  let timer, asked = null;
  const ask = async () => {
    const answer = await fetch(`${slider.dataset.state}?at=${at.value}`, { cache: "no-store" });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) return;
    const found = new DOMParser().parseFromString(await answer.text(), "text/html").body;
    document.getElementById("state").replaceChildren(...found.childNodes);
  };
  // One question at a time, and where the slider went on meanwhile one more: a long history takes a while to fold.
  const show = async () => {
    if (asked !== null) return;
    while (asked !== at.value) {
      asked = at.value;
      await ask().catch(() => {});
    }
    asked = null;
  };
  at.addEventListener("input", () => {
    slider.querySelector("output").value = utc(at.value);
    point(at.value);
    clearTimeout(timer);
    timer = setTimeout(show, 80);
  });
  slider.addEventListener("submit", (event) => { event.preventDefault(); show(); });
  if (plot) point(at.value);
}

// The plot: what is dragged across is zoomed into.
if (plot) {
  const within = (event) => {
    const box = plot.querySelector(".lane svg").getBoundingClientRect();
    return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
  };
  const iso = (share) => {
    const since = Number(plot.dataset.since), until = Number(plot.dataset.until);
    return new Date((since + share * (until - since)) * 1000).toISOString();
  };
  let from = null;
  const draw = (to) => {
    for (const svg of plot.querySelectorAll(".lane svg")) {
      const chosen = svg.querySelector(".chosen") ?? svg.appendChild(document.createElementNS(svg.namespaceURI, "rect"));
      chosen.setAttribute("class", "chosen");
      chosen.setAttribute("x", 1000 * Math.min(from, to));
      chosen.setAttribute("width", 1000 * Math.abs(to - from));
      chosen.setAttribute("height", 26);
    }
  };
  plot.addEventListener("pointerdown", (event) => {
    if (event.button || !event.target.closest("svg")) return;
    from = within(event);
    plot.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  plot.addEventListener("pointermove", (event) => from !== null && draw(within(event)));
  plot.addEventListener("pointercancel", () => { from = null; });
  plot.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const to = within(event), first = Math.min(from, to), last = Math.max(from, to);
    from = null;
    if (last - first < 0.01) return draw(0);
    location.assign(`${plot.dataset.page}?from=${encodeURIComponent(iso(first))}&to=${encodeURIComponent(iso(last))}#plot`);
  });
}

// Who chooses types means these: what is chosen by pressing one is not "all" any more.
for (const type of document.querySelectorAll("input[name=type][type=checkbox]")) {
  type.addEventListener("change", () => { if (type.checked) type.form.querySelector("input[name=what][value=types]").checked = true; });
}

// The tail: one line an event, newest first, never more than so many. What devices call themselves is only ever text.
const tail = document.querySelector("[data-tail]");
if (tail) {
  const list = tail.querySelector("ol"), status = tail.querySelector("[data-status]"), held = [], known = new Set();
  const most = Number(tail.dataset.shown), pause = tail.querySelector("[data-pause]");
  let paused = false;
  const tell = (kind, text) => {
    if (status.textContent !== text) status.textContent = text;
    status.className = `badge ${kind}`;
  };
  const cell = (name, text, address) => {
    const made = document.createElement(address ? "a" : "span");
    made.className = name;
    made.textContent = text;
    if (address) made.href = address;
    return made;
  };
  const row = (told) => {
    const item = document.createElement("li");
    item.className = told.event === "session_ended" ? "new ended" : "new";
    const device = cell("device", told.session ? `${told.session.slice(0, 12)}…` : "", told.session && `/console/devices/${told.session}`);
    const says = document.createElement("bdi");
    says.className = "says";
    says.textContent = told.says;
    item.append(cell("at", told.at.slice(0, 19).replace("T", " ")), cell("event", told.event.replaceAll("_", " ")), device, says);
    if (told.user) {
      const user = document.createElement("bdi");
      user.className = "quiet";
      user.textContent = ` of ${told.user}`;
      device.after(user);
    }
    return item;
  };
  const draw = () => {
    list.prepend(...held.splice(0).reverse().map(row));
    while (list.childElementCount > most) list.lastElementChild.remove();
    tail.querySelector("[data-empty]").hidden = list.childElementCount > 0;
  };
  let drawing = 0;
  let source, position = "";
  // Browsers come again by themselves where a connection is lost, but give up for good at an answer like 503.
  const lost = async () => {
    tell("bad", "connecting again");
    if (source.readyState !== EventSource.CLOSED) return;
    const answer = await fetch(tail.dataset.tail, { method: "HEAD", cache: "no-store" }).catch(() => null);
    if (answer && answer.status >= 400 && answer.status < 500) return tell("bad", "not allowed any more: open the page again");
    setTimeout(follow, 1000 * tail.dataset.again);
  };
  const follow = () => {
    source = new EventSource(tail.dataset.tail + (position && `&after=${position}`));
    source.addEventListener("open", () => paused || tell("good", "live"));
    source.addEventListener("error", lost);
    source.addEventListener("position", (event) => { position = event.lastEventId; });
    source.addEventListener("message", take);
  };
  const take = (event) => {
    const told = JSON.parse(event.data);
    if (known.has(told.id)) return; // told again behind a connection that was lost
    known.add(told.id);
    if (known.size > 2 * most) known.delete(known.values().next().value);
    held.push(told);
    if (held.length > most) held.shift();
    if (paused) tell("late", `paused, ${held.length} new`);
    else drawing ||= requestAnimationFrame(() => { drawing = 0; draw(); });
  };
  follow();
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", paused);
    pause.textContent = paused ? "Go on" : "Pause";
    if (paused) return tell("late", "paused");
    tell("good", "live");
    draw();
  });
  tail.querySelector("[data-clear]").addEventListener("click", () => { held.length = 0; list.replaceChildren(); draw(); });
  addEventListener("pagehide", () => source.close());
}
