// The room's page: one WebSocket, kept open, and a log of what came over it.

const RETRY_FIRST = 500; // milliseconds
const RETRY_MOST = 10_000;
const KEPT_MESSAGES = 500;

const chat = document.getElementById("chat");
const connection = document.getElementById("connection");
const log = document.getElementById("log");
const empty = document.getElementById("empty");
const newer = document.getElementById("newer");
const composer = document.getElementById("composer");
const field = document.getElementById("text");
const sendButton = document.getElementById("send");
const error = document.getElementById("error");

const { room, name } = chat.dataset;

// --- the connection -----------------------------------------------------------------------------

let socket = null;
let retryTimer = null;
let failures = 0;
let wasConnected = false;

function connect() {
  clearTimeout(retryTimer);
  const url = new URL(`/ws/chat/${encodeURIComponent(room)}/`, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("name", name);

  socket = new WebSocket(url);
  socket.addEventListener("open", onOpen);
  socket.addEventListener("message", (event) => onFrame(JSON.parse(event.data)));
  socket.addEventListener("close", onClose);
}

function onOpen() {
  failures = 0;
  showConnection("connected", "connected");
  if (wasConnected) addNote("Reconnected. You may have missed messages.");
  wasConnected = true;
}

function onClose({ code, reason }) {
  unconfirmed.length = 0;
  if (code >= 4000) {
    // The server's own codes say why, and the answer would be the same again.
    showConnection("closed", "closed");
    showError(reason);
    return;
  }
  // Doubling waits, and chance, so that a thousand pages don't come back in the same instant.
  const longest = Math.min(RETRY_MOST, RETRY_FIRST * 2 ** failures++);
  retryTimer = setTimeout(connect, longest * (0.5 + Math.random() / 2));
  showConnection("reconnecting", "reconnecting…");
}

function retryNow() {
  if (socket.readyState === WebSocket.CLOSED && connection.dataset.state === "reconnecting") connect();
}
addEventListener("online", retryNow);
document.addEventListener("visibilitychange", () => document.hidden || retryNow());

function showConnection(state, words) {
  if (connection.dataset.state === state) return;
  connection.dataset.state = state;
  connection.textContent = words;
  updateSend();
}

// --- messages -----------------------------------------------------------------------------------

// Texts sent and not yet come back. Two people may have the same name, so a message is one's own
// when its text is waited for as well.
const unconfirmed = [];

function onFrame(frame) {
  if (frame.type === "message") {
    const waitedFor = frame.from === name ? unconfirmed.indexOf(frame.text) : -1;
    if (waitedFor !== -1) unconfirmed.splice(waitedFor, 1);
    addMessage(frame.from, frame.text, waitedFor !== -1);
  } else if (frame.type === "error") {
    showError(frame.message);
  }
}

function addMessage(from, text, own) {
  const last = log.lastElementChild;
  const message = document.createElement("article");
  message.className = own ? "message own" : "message";
  message.dataset.from = from;
  // Someone who goes on talking is not named again, except to screen readers.
  const goesOn = last?.className === message.className && last.dataset.from === from;
  if (goesOn) message.dataset.goesOn = "";

  const now = new Date();
  const by = document.createElement("header");
  const who = document.createElement("b");
  who.textContent = own ? "You" : from;
  who.style.setProperty("--hue", hue(from));
  const when = document.createElement("time");
  when.dateTime = now.toISOString();
  when.textContent = now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  by.append(who, " ", when);

  const body = document.createElement("p");
  body.textContent = text; // never HTML: it is what a stranger typed
  message.append(by, body);
  append(message, own);
}

function addNote(words) {
  const note = document.createElement("p");
  note.className = "note";
  note.textContent = words;
  append(note, false);
}

function append(element, mustSee) {
  empty.remove();
  log.append(element);
  while (log.childElementCount > KEPT_MESSAGES) log.firstElementChild.remove();
  if (mustSee || following) toBottom();
  else newer.hidden = false;
}

/** The same colour for a name on every screen: one of twelve, far enough apart to tell. */
function hue(text) {
  let hash = 0x811c9dc5; // FNV-1a
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return ((hash >>> 8) % 12) * 30 + 15;
}

// Whether new messages scroll into view: not while somebody reads further up.
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

// A phone's keyboard came or went, or the draft has another line.
new ResizeObserver(() => following && toBottom()).observe(log);

// --- writing ------------------------------------------------------------------------------------

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = field.value.trim();
  if (!text || socket.readyState !== WebSocket.OPEN) return;
  unconfirmed.push(text);
  socket.send(JSON.stringify({ text }));
  field.value = "";
  error.hidden = true;
  updateSend();
  field.focus();
});

field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    composer.requestSubmit();
  }
});

field.addEventListener("input", updateSend);

function updateSend() {
  sendButton.disabled = connection.dataset.state !== "connected" || !field.value.trim();
  // Grow with the text, up to the style sheet's max-height.
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function showError(words) {
  error.textContent = words;
  error.hidden = !words;
}

connect();
updateSend();
