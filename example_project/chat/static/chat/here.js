// Who is in the room: a list, beside the log or behind a button, and quiet notes in the log of who
// comes and goes. The frames are described in here.py.

import { append, element, live, nameColour, send } from "./live.js";

const NAMED = 3; // in one note
const LONGEST = 160; // characters of a note that takes another one in
const ASK_AGAIN = 1_000; // milliseconds

const { name } = document.getElementById("chat").dataset;
const panel = document.getElementById("people");
const list = document.getElementById("names");
const button = document.getElementById("here");
const title = document.getElementById("people-title");
const outbox = document.getElementById("outbox");

const names = new Set();
let members = 0;

// What came since we asked for the list: it may be newer than that.
let since = null;
let timer = null;

live.addEventListener("frame", ({ detail: frame }) => {
  if (frame.type === "entered" || (frame.type === "redis" && !frame.away)) ask();
  else if (frame.type === "here") onList(frame);
  else if (frame.type === "presence") onChange(frame);
});
live.addEventListener("close", () => clearTimeout(timer));

function ask() {
  clearTimeout(timer);
  timer = null;
  since = send({ here: true }) ? [] : null;
}

function onList(frame) {
  names.clear();
  for (const each of frame.names) names.add(each);
  members = frame.members;
  since?.forEach(apply);
  since = null;
  show();
}

function onChange(frame) {
  if (since) since.push(frame);
  const joined = frame.joined.filter((each) => each !== name && !names.has(each));
  const left = frame.left.filter((each) => each !== name && names.has(each));
  apply(frame);
  if (!since) {
    if (joined.length) whisper(`${sentence(joined)} joined`);
    if (left.length) whisper(`${sentence(left)} left`);
    // In a large room, and after a failure, the number says that there is more to know.
    if (names.size !== members && names.size < 200) timer ??= setTimeout(ask, ASK_AGAIN);
  }
  show();
}

function apply(frame) {
  for (const each of frame.joined) names.add(each);
  for (const each of frame.left) names.delete(each);
  members = frame.members;
}

// --- how it looks -------------------------------------------------------------------------------

function show() {
  const count = Math.max(members, names.size);
  button.textContent = title.textContent = `${count.toLocaleString()} here`;
  button.hidden = false;
  const sorted = [...names].sort((a, b) => a.localeCompare(b));
  list.replaceChildren(
    ...sorted.map((each) => {
      const item = element("li", "", each);
      if (each === name) item.append(element("small", "", " (you)"));
      item.style.setProperty("--hue", nameColour(each));
      return item;
    }),
  );
  if (count > names.size) list.append(element("li", "more", `and ${count - names.size} more`));
}

function sentence(some) {
  const others = some.length - NAMED;
  if (others > 1) return `${some.slice(0, NAMED).join(", ")} and ${others} others`;
  return some.length < 2 ? some[0] : `${some.slice(0, -1).join(", ")} and ${some.at(-1)}`;
}

/** A note in the log that nobody needs to read; several in a row are one. */
function whisper(words) {
  const last = outbox.previousElementSibling;
  if (last?.classList.contains("whisper") && last.textContent.length < LONGEST) last.textContent += ` · ${words}`;
  else append(element("p", "whisper", words), false);
}

button.addEventListener("click", () => toggle(panel.dataset.open === undefined));
panel.addEventListener("keydown", ({ key }) => key === "Escape" && toggle(false));
document.addEventListener("click", ({ target }) => {
  if (!panel.contains(target) && target !== button) toggle(false);
});

function toggle(open) {
  if (open === (panel.dataset.open !== undefined)) return;
  if (open) panel.dataset.open = "";
  else delete panel.dataset.open;
  button.setAttribute("aria-expanded", open);
  if (!open && panel.contains(document.activeElement)) button.focus();
}
