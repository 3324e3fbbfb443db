// The room's page: what people say comes into the log, what one types goes out.

import { append, byline, element, isConnected, keepOpen, live, send, showError } from "./live.js";

const chat = document.getElementById("chat");
const log = document.getElementById("log");
const composer = document.getElementById("composer");
const field = document.getElementById("text");

const { room, name } = chat.dataset;

// --- the connection -----------------------------------------------------------------------------

function connect() {
  const url = new URL(`/ws/chat/${encodeURIComponent(room)}/`, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("name", name);
  return new WebSocket(url);
}

function onOpen() {
  // What was under way when the last connection broke doesn't come over this one.
  unconfirmed.length = 0;
  updateButtons();
}

live.addEventListener("open", onOpen);
live.addEventListener("close", updateButtons);
live.addEventListener("frame", (event) => onFrame(event.detail));

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
  const message = element("article", own ? "message own" : "message");
  message.dataset.from = from;
  // Someone who goes on talking is not named again, except to screen readers.
  const goesOn = last?.className === message.className && last.dataset.from === from;
  if (goesOn) message.dataset.goesOn = "";

  message.append(byline(from, own ? "You" : from), element("p", "", text));
  append(message, own);
}

// --- writing ------------------------------------------------------------------------------------

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = field.value.trim();
  if (!text || !send({ text })) return;
  unconfirmed.push(text);
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
  const useless = !isConnected() || !field.value.trim();
  for (const button of composer.querySelectorAll("button")) button.disabled = useless;
  // Grow with the text, up to the style sheet's max-height.
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

keepOpen(connect);
updateButtons();
