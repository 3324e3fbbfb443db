// What the pages with a socket have in common: the socket, kept open, and the log of what came.

const RETRY_FIRST = 500; // milliseconds
const RETRY_MOST = 10_000;
const KEPT_MESSAGES = 500;
const NOTICES = {
  reconnecting: "The server is away. What you write is sent when it is back.",
  redis: "Redis is away. What you write is sent when it is back.",
};

const connection = document.getElementById("connection");
const log = document.getElementById("log");
const empty = document.getElementById("empty");
const outbox = document.getElementById("outbox"); // of a page where one writes
const newer = document.getElementById("newer");
const notice = document.getElementById("notice");
const error = document.getElementById("error");

// --- the connection -----------------------------------------------------------------------------

/** Tells of "open" and "close", and of each "frame" that came: it is the event's `detail`. */
export const live = new EventTarget();

let connect;
let socket = null;
let retryTimer = null;
let failures = 0;

/** Has a socket from `makeSocket`, and another one whenever it is lost. */
export function keepOpen(makeSocket) {
  connect = makeSocket;
  // Not before all scripts of the page listen: this event comes after they have run.
  document.addEventListener("DOMContentLoaded", open);
}

function isConnected() {
  return socket?.readyState === WebSocket.OPEN;
}

/** Whether the server wants no more of us. */
export function isClosed() {
  return connection.dataset.state === "closed";
}

/** Sends a frame, and says whether that was possible. */
export function send(frame) {
  if (!isConnected()) return false;
  socket.send(JSON.stringify(frame));
  return true;
}

function open() {
  clearTimeout(retryTimer);
  socket = connect();
  socket.addEventListener("open", onOpen);
  socket.addEventListener("close", onClose);
  socket.addEventListener("message", ({ data }) => onFrame(JSON.parse(data)));
}

export function tell(what, detail) {
  live.dispatchEvent(new CustomEvent(what, { detail }));
}

function onOpen() {
  failures = 0;
  tell("open");
}

function onFrame(frame) {
  if (frame.type === "redis" && frame.away) showConnection("redis", "Redis is away");
  else if (frame.type === "redis" || frame.type === "entered") {
    showConnection("connected", "connected");
  }
  tell("frame", frame);
}

function onClose({ code, reason }) {
  if (code >= 4000) {
    // The server's own codes say why, and the answer would be the same again.
    showConnection("closed", "closed");
    showError(reason);
  } else {
    // Doubling waits, and chance, so that a thousand pages don't come back in the same instant.
    const longest = Math.min(RETRY_MOST, RETRY_FIRST * 2 ** failures++);
    retryTimer = setTimeout(open, longest * (0.5 + Math.random() / 2));
    showConnection("reconnecting", "reconnecting…");
  }
  tell("close");
}

function retryNow() {
  if (socket?.readyState === WebSocket.CLOSED && connection.dataset.state === "reconnecting") open();
}
addEventListener("online", retryNow);
document.addEventListener("visibilitychange", () => document.hidden || retryNow());

function showConnection(state, words) {
  if (connection.dataset.state === state) return;
  connection.dataset.state = state;
  connection.textContent = words;
  if (!notice) return;
  notice.textContent = NOTICES[state] ?? "";
  notice.hidden = !NOTICES[state];
}

export function showError(words) {
  error.textContent = words;
  error.hidden = !words;
}

// --- the log ------------------------------------------------------------------------------------

/** Adds to the log, before what waits to be sent. */
export function append(entry, mustSee) {
  log.insertBefore(entry, outbox);
  hasGrown(mustSee);
}

/** Scrolls to what was added if `mustSee`, or if that is where one reads. */
export function hasGrown(mustSee) {
  empty.remove();
  while (log.childElementCount > KEPT_MESSAGES) log.firstElementChild.remove();
  if (mustSee || following) toBottom();
  else newer.hidden = false;
}

/** Says something in the log, and not twice in a row. */
export function addNote(words) {
  const last = outbox ? outbox.previousElementSibling : log.lastElementChild;
  if (last?.textContent !== words) append(element("p", "note", words), false);
}

/** An element with text in it; never HTML: it is what a stranger typed. */
export function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Who it was, shown as `words` (such as "You"), and when: now, if not told otherwise. */
export function byline(from, words = from, time = new Date()) {
  const by = document.createElement("header");
  const who = element("b", "", words);
  who.style.setProperty("--hue", nameColour(from));
  const when = document.createElement("time");
  when.dateTime = time.toISOString();
  when.title = time.toLocaleString();
  when.textContent = time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  by.append(who, " ", when);
  return by;
}

/** The same colour for a name on every screen: one of twelve, far enough apart to tell. */
export function nameColour(text) {
  let hash = 0x811c9dc5; // FNV-1a
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return ((hash >>> 8) % 12) * 30 + 15;
}

// Whether new entries scroll into view: not while somebody reads further up.
let following = true;

log.addEventListener("scroll", () => {
  following = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  if (following) newer.hidden = true;
});

function toBottom() {
  following = true;
  log.scrollTop = log.scrollHeight;
  newer.hidden = true;
}

newer.addEventListener("click", toBottom);

/** After the log, or an entry in it, has another size. */
export function keepFollowing() {
  if (following) toBottom();
}

// A phone's keyboard came or went, or the draft has another line.
new ResizeObserver(keepFollowing).observe(log);
