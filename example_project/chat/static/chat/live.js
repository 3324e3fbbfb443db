// What the pages with a socket have in common: the socket, kept open, and the log of what came.

const RETRY_FIRST = 500; // milliseconds
const RETRY_MOST = 10_000;
const KEPT_MESSAGES = 500;

const connection = document.getElementById("connection");
const log = document.getElementById("log");
const empty = document.getElementById("empty");
const newer = document.getElementById("newer");
const error = document.getElementById("error");

// --- the connection -----------------------------------------------------------------------------

/** Tells of "open" and "close", and of each "frame" that came: it is the event's `detail`. */
export const live = new EventTarget();

let connect;
let socket = null;
let retryTimer = null;
let failures = 0;
let wasConnected = false;

/** Has a socket from `makeSocket`, and another one whenever it is lost. */
export function keepOpen(makeSocket) {
  connect = makeSocket;
  // Not before all scripts of the page listen: this event comes after they have run.
  document.addEventListener("DOMContentLoaded", open);
}

export function isConnected() {
  return socket?.readyState === WebSocket.OPEN;
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
  socket.addEventListener("message", ({ data }) => tell("frame", JSON.parse(data)));
}

function tell(what, detail) {
  live.dispatchEvent(new CustomEvent(what, { detail }));
}

function onOpen() {
  failures = 0;
  showConnection("connected", "connected");
  if (wasConnected) addNote("Reconnected. You may have missed messages.");
  wasConnected = true;
  tell("open");
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
}

export function showError(words) {
  error.textContent = words;
  error.hidden = !words;
}

// --- the log ------------------------------------------------------------------------------------

/** Adds to the log, and scrolls there if `mustSee`, or if that is where one reads. */
export function append(entry, mustSee) {
  empty.remove();
  log.append(entry);
  while (log.childElementCount > KEPT_MESSAGES) log.firstElementChild.remove();
  if (mustSee || following) toBottom();
  else newer.hidden = false;
}

function addNote(words) {
  append(element("p", "note", words), false);
}

/** An element with text in it; never HTML: it is what a stranger typed. */
export function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Who it was, shown as `words` (such as "You"), and that it was now. */
export function byline(from, words = from) {
  const by = document.createElement("header");
  const who = element("b", "", words);
  who.style.setProperty("--hue", hue(from));
  const now = new Date();
  const when = document.createElement("time");
  when.dateTime = now.toISOString();
  when.textContent = now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  by.append(who, " ", when);
  return by;
}

/** The same colour for a name on every screen: one of twelve, far enough apart to tell. */
function hue(text) {
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
