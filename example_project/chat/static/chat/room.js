// The room's page: what people say comes into the log, what one types goes out.

import { addNote, append, byline, element, isClosed } from "./live.js";
import { keepOpen, live, send, showError } from "./live.js";
import { confirm, isOwn, restore, say, sendAgain, wasRefused, wasSent } from "./outbox.js";

const chat = document.getElementById("chat");
const log = document.getElementById("log");
const outbox = document.getElementById("outbox");
const composer = document.getElementById("composer");
const field = document.getElementById("text");

const { room, name } = chat.dataset;

// --- the connection -----------------------------------------------------------------------------

// Of the last message that came: what comes after it is what this page misses.
let position = null;

function connect() {
  const url = new URL(`/ws/chat/${encodeURIComponent(room)}/`, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("name", name);
  return new WebSocket(url);
}

live.addEventListener("open", () => {
  send({ enter: position });
  updateButtons();
});

live.addEventListener("close", updateButtons);

live.addEventListener("frame", ({ detail: frame }) => {
  // Before anything else: whatever becomes of a message here, it has come.
  position = frame.position ?? position;
  onFrame(frame);
});

// --- messages -----------------------------------------------------------------------------------

function onFrame(frame) {
  if (frame.type === "message") {
    addMessage(frame);
  } else if (frame.type === "history") {
    if (frame.missing) addNote("Some messages may be missing here.");
    frame.messages.forEach(addMessage);
  } else if (frame.type === "entered") {
    log.setAttribute("aria-live", "polite");
    sendAgain();
  } else if (frame.type === "redis" && !frame.away) {
    sendAgain();
  } else if (frame.type === "sent") {
    wasSent(frame.key);
  } else if (frame.type === "error") {
    if (frame.key) wasRefused(frame.key, frame.message);
    else showError(frame.message);
  }
}

function addMessage({ key, from, text, at }) {
  // The last messages may be here already, some of them.
  if (log.querySelector(`[data-key="${CSS.escape(key)}"]`)) return;
  confirm(key);
  const own = isOwn(key);
  const last = outbox.previousElementSibling;
  const message = element("article", own ? "message own" : "message");
  message.dataset.key = key;
  message.dataset.from = from;
  // Someone who goes on talking is not named again, except to screen readers.
  const goesOn = last?.className === message.className && last.dataset.from === from;
  if (goesOn) message.dataset.goesOn = "";

  message.append(byline(from, own ? "You" : from, new Date(at * 1000)), element("p", "", text));
  append(message, false);
}

// --- writing ------------------------------------------------------------------------------------

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = field.value.trim();
  if (!text || isClosed()) return;
  say(text);
  field.value = "";
  showError("");
  updateButtons();
  field.focus();
});

field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    composer.requestSubmit();
  }
});

field.addEventListener("input", updateButtons);

function updateButtons() {
  const useless = isClosed() || !field.value.trim();
  for (const button of composer.querySelectorAll("button")) button.disabled = useless;
  // Grow with the text, up to the style sheet's max-height.
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

restore();
keepOpen(connect);
updateButtons();
