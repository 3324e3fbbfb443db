// Questions in a room: those one asks, each waiting for the first answer, and those of others.
// The frames are described in questions.py.

import { append, byline, element, keepFollowing, live, send, showError } from "./live.js";

const field = document.getElementById("text");
const askButton = document.getElementById("ask");

// The questions whose end is yet to come, by their ids.
const waiting = new Map();

const handlers = {
  asked: ({ id, text, timeout }) => {
    waiting.set(id, new OwnQuestion(text, timeout));
    hasAsked(text);
  },
  error: () => (asking = false),
  question: ({ id, from, text, timeout }) => waiting.set(id, new Question(id, from, text, timeout)),
  answered: ({ id, from, text }) => end(id, "answered", from, text),
  unanswered: ({ id, message }) => end(id, "unanswered", message),
  answer: ({ to, first }) => end(to, "heard", first),
};

live.addEventListener("frame", ({ detail }) => handlers[detail.type]?.(detail));
live.addEventListener("open", () => waiting.forEach((question) => question.connected()));
live.addEventListener("close", () => {
  asking = false;
  for (const [id, question] of waiting) if (question.disconnected()) waiting.delete(id);
});

function end(id, how, ...more) {
  waiting.get(id)?.[how](...more);
  waiting.delete(id);
}

// --- asking -------------------------------------------------------------------------------------

// The server's default, or another one: /room/tea/?name=Ann&timeout=5
const timeout = Number(new URLSearchParams(location.search).get("timeout")) || undefined;

// Between a question and the server's word on it.
let asking = false;

askButton.addEventListener("click", () => {
  const text = field.value.trim();
  if (!text || asking) return;
  asking = send({ ask: text, timeout });
  showError(asking ? "" : "The server is away. Ask again when it is back.");
  field.focus();
});

/** The draft goes only now: the server may have had something against the question. */
function hasAsked(text) {
  asking = false;
  if (field.value.trim() !== text) return;
  field.value = "";
  field.dispatchEvent(new Event("input"));
}

// --- how it looks -------------------------------------------------------------------------------

/** An entry of the log with a question in it, and time that runs out. */
class Card {
  constructor(className, by, text, seconds) {
    this.element = element("article", className);
    this.outcome = element("p", "outcome");
    this.clock = element("span", "clock");
    // A screen reader that asks for the time gets it, but is not told every second.
    this.clock.setAttribute("role", "timer");
    this.clock.setAttribute("aria-live", "off");
    this.bar = element("div", "bar");
    this.bar.style.animationDuration = `${seconds}s`;
    by.append(this.clock);
    this.element.append(by, element("p", "asked", text), this.outcome, this.bar);

    this.deadline = performance.now() + seconds * 1000;
    this.timer = setInterval(() => this.tick(), 250);
    this.tick();
  }

  tick() {
    const left = Math.max(0, Math.ceil((this.deadline - performance.now()) / 1000));
    if (this.left === left) return;
    this.left = left;
    this.clock.textContent = `${left} s`;
    if (left === 0) this.timeIsUp();
  }

  /** Shows how it ended: `what` are words and elements. */
  finish(state, ...what) {
    clearInterval(this.timer);
    this.clock.remove();
    this.bar.remove();
    this.element.dataset.state = state;
    this.outcome.replaceChildren(...what);
    keepFollowing();
  }
}

/** A question of one's own: the server says how it ends. */
class OwnQuestion extends Card {
  constructor(text, seconds) {
    super("question own", byline("", "You asked"), text, seconds);
    this.outcome.textContent = "Waiting for the first answer…";
    append(this.element, true);
  }

  timeIsUp() {
    clearInterval(this.timer);
  }

  answered(from, text) {
    this.outcome.before(element("p", "answer", text));
    const by = byline(from);
    by.firstElementChild.after(" answered");
    this.finish("answered", ...by.childNodes);
  }

  unanswered(message) {
    this.finish("over", message);
  }

  connected() {}

  disconnected() {
    this.finish("over", "The connection was lost, and the question with it.");
    return true;
  }
}

/** Somebody else's question, with a field for the answer. */
class Question extends Card {
  constructor(id, from, text, seconds) {
    const by = byline(from);
    by.firstElementChild.after(" asks");
    super("question", by, text, seconds);
    this.id = id;

    this.form = element("form", "reply");
    this.input = document.createElement("input");
    this.input.maxLength = field.maxLength;
    this.input.placeholder = "Answer";
    this.input.autocomplete = "off";
    this.input.enterKeyHint = "send";
    this.input.setAttribute("aria-label", `Answer to ${from}`);
    this.button = element("button", "", "Answer");
    this.form.append(this.input, this.button);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.outcome.before(this.form);
    append(this.element, false);
  }

  submit() {
    const text = this.input.value.trim();
    if (!text || this.submitted || !send({ answer: text, to: this.id })) return;
    this.submitted = text;
    this.button.disabled = true;
  }

  heard(first) {
    const answer = element("p", "answer", this.submitted);
    this.close();
    this.outcome.before(answer);
    if (first) this.finish("answered", "Your answer was the first.");
    else this.finish("over", "Too late: it was already answered, or nobody waits any more.");
  }

  timeIsUp() {
    // An answer that is on its way may still have been in time.
    if (this.submitted) return;
    waiting.delete(this.id);
    this.close();
    this.finish("over", "The time is up.");
  }

  connected() {
    this.button.disabled = false;
  }

  disconnected() {
    this.submitted = undefined;
    this.button.disabled = true;
    return false;
  }

  close() {
    const typing = this.form.contains(document.activeElement);
    this.form.remove();
    if (typing) field.focus();
  }
}
