// What was typed here and is not confirmed: it is shown as pending, sent again under its key, and
// after a while given up, with the text in reach. It survives a reload of the page.

import { byline, element, hasGrown, keepFollowing, send, tell } from "./live.js";

const RETRY = 5_000; // milliseconds
const TRIES = 6;
const KEPT_KEYS = 200;

const { room, name } = document.getElementById("chat").dataset;
const outbox = document.getElementById("outbox");
const field = document.getElementById("text");

// Keys of what was typed here, and by key what of it is not confirmed.
let own = [];
const pending = new Map();

// What was taken back into the field. It may have been sent, so it keeps its key until it changes.
let takenBack = null;

/** Sends what somebody typed. */
export function say(text) {
  const key = text === takenBack?.text ? takenBack.key : newKey();
  takenBack = null;
  own.push(key);
  pending.set(key, new Pending(key, text));
  save();
}

export function isOwn(key) {
  return own.includes(key);
}

/** It came back, in its place among all messages: who shows it there need not see it here. */
export function confirm(key) {
  pending.get(key)?.remove();
  if (takenBack?.key !== key) return;
  if (field.value.trim() === takenBack.text) setField("");
  takenBack = null;
}

/** It is in the room's history: no need to send it again, it will come. */
export function wasSent(key) {
  const message = pending.get(key);
  if (message) message.sent = true;
}

export function wasRefused(key, reason) {
  pending.get(key)?.fail(reason);
}

/** The way is free again: what may have been lost on it goes once more, under the same keys. */
export function sendAgain() {
  for (const message of pending.values()) if (!message.failed) message.send();
}

class Pending {
  constructor(key, text) {
    this.key = key;
    this.text = text;
    this.element = element("article", "message own");
    this.footer = document.createElement("footer");
    this.element.append(byline(name, "You"), element("p", "", text), this.footer);
    outbox.append(this.element);
    this.start();
  }

  start() {
    this.failed = false;
    this.tries = 0;
    this.element.dataset.state = "pending";
    this.footer.replaceChildren("Sending…");
    hasGrown(true);
    this.try();
  }

  try() {
    this.tries += 1;
    this.send();
    this.timer = setTimeout(() => this.isLate(), RETRY);
  }

  send() {
    this.sent = false;
    send({ text: this.text, key: this.key });
  }

  isLate() {
    if (this.sent) {
      // It came before this page's position, and will not come again.
      const message = { from: name, text: this.text, key: this.key, at: Date.now() / 1000 };
      tell("frame", { type: "message", ...message });
    } else if (this.tries < TRIES) this.try();
    else this.fail();
  }

  fail(reason) {
    clearTimeout(this.timer);
    this.failed = true;
    this.element.dataset.state = "failed";
    const words = element("span", "", reason ? `Not sent. ${reason}` : "Not sent.");
    words.setAttribute("role", "alert");
    const again = button("Try again", () => {
      this.start();
      field.focus();
    });
    this.footer.replaceChildren(words, again, button("Edit", () => this.takeBack()));
    keepFollowing();
  }

  takeBack() {
    this.remove();
    takenBack = this;
    setField([this.text, field.value].filter(Boolean).join("\n"));
    field.focus();
  }

  remove() {
    clearTimeout(this.timer);
    if (this.element.contains(document.activeElement)) field.focus();
    this.element.remove();
    pending.delete(this.key);
    save();
  }
}

function button(words, onClick) {
  const made = element("button", "", words);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

function setField(text) {
  field.value = text;
  field.dispatchEvent(new Event("input"));
}

/** What nobody else comes upon; randomUUID is for pages over HTTPS and on localhost only. */
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// --- over a reload ------------------------------------------------------------------------------

const place = `outbox of ${room}`;

function save() {
  own = own.slice(-KEPT_KEYS);
  const texts = Array.from(pending.values(), ({ key, text }) => [key, text]);
  try {
    sessionStorage.setItem(place, JSON.stringify({ own, texts }));
  } catch {
    // The browser keeps nothing: then it does not survive.
  }
}

/** Takes up what was pending before this page was loaded. */
export function restore() {
  let saved = null;
  try {
    saved = JSON.parse(sessionStorage.getItem(place));
  } catch {
    return;
  }
  own = saved?.own ?? [];
  for (const [key, text] of saved?.texts ?? []) pending.set(key, new Pending(key, text));
}
