// Keeps what is seen fresh: relative times, and the part of the page that changes. Without it the page works all the same.
"use strict";

const EVERY_MS = 4000;
const words = JSON.parse(document.body.dataset.times);
// The reader's clock may be wrong; the server's decides.
const ahead = Number(document.body.dataset.now) - Date.now();

function fill(key, name, value) {
  return words[key].replace(`{${name}}`, value);
}

function span(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= length) return fill(`span.${unit}`, "n", Math.floor(seconds / length));
  }
  return fill("span.s", "n", Math.max(0, Math.floor(seconds)));
}

function relative(stamp) {
  const seconds = (Date.parse(stamp) - Date.now() - ahead) / 1000;
  if (Math.abs(seconds) < 1) return words["time.now"];
  return fill(seconds > 0 ? "time.in" : "time.ago", "span", span(Math.abs(seconds)));
}

function tellTimes() {
  for (const time of document.querySelectorAll("time[data-relative]")) time.textContent = relative(time.dateTime);
}

function tellReadersTimes() {
  // Times are in the zone that the page names; the tooltip shows the reader's own.
  for (const time of document.querySelectorAll("time[data-moment]:not([data-local])")) {
    const own = new Date(time.dateTime).toLocaleString(document.documentElement.lang, {
      dateStyle: "medium", timeStyle: "long", hour12: false,
    });
    time.title = `${time.title} · ${own}`;
    time.dataset.local = "";
  }
}

function openParts(live) {
  return new Set([...live.querySelectorAll("details[open][id]")].map((each) => each.id));
}

function isBusy(live) {
  // Somebody is about to press a button there, or reads with a selection.
  return live.querySelector(":active") !== null || !document.getSelection().isCollapsed;
}

async function refresh(live) {
  const lost = document.querySelector("[data-lost]");
  try {
    const answer = await fetch(live.dataset.live, { cache: "no-store", redirect: "error" });
    if (answer.status === 401 || answer.status === 404) {
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(String(answer.status));
    const text = await answer.text();
    if (!isBusy(live)) {
      const focusable = "a, button, summary";
      const focused = [...live.querySelectorAll(focusable)].indexOf(document.activeElement);
      const open = openParts(live);
      live.innerHTML = text;
      for (const each of live.querySelectorAll("details[id]")) each.open = each.open || open.has(each.id);
      if (focused >= 0) live.querySelectorAll(focusable)[focused]?.focus();
    }
    lost.hidden = true;
  } catch {
    lost.hidden = false;
  }
  tellTimes();
  tellReadersTimes();
}

function keepFresh(live) {
  let timer = 0;
  const turn = async () => {
    if (document.hidden) return;
    await refresh(live);
    timer = setTimeout(turn, EVERY_MS);
  };
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) turn();
  });
  timer = setTimeout(turn, EVERY_MS);
}

function openTarget() {
  const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
  if (target instanceof HTMLDetailsElement) target.open = true;
}

tellTimes();
tellReadersTimes();
openTarget();
addEventListener("hashchange", openTarget);
setInterval(tellTimes, 1000);
const live = document.querySelector("[data-live]");
if (live !== null) keepFresh(live);
