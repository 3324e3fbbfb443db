// The page of mentions: what comes over the socket goes into the log.

import { addNote, append, byline, element, keepOpen, live } from "./live.js";

const { name } = document.getElementById("mentions").dataset;

function connect() {
  const url = new URL("/ws/mentions/", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("name", name);
  return new WebSocket(url);
}

let entered = false;

live.addEventListener("frame", ({ detail }) => {
  if (detail.type === "mention") addMention(detail);
  const back = detail.type === "entered" && entered;
  if (back || detail.type === "missing") addNote("You may have missed messages here.");
  entered ||= detail.type === "entered";
});

function addMention({ room, from, text, question }) {
  const link = element("a", "", `#${room}`);
  link.href = `/room/${encodeURIComponent(room)}/?${new URLSearchParams(name ? { name } : {})}`;
  const by = byline(from);
  by.firstElementChild.after(question ? " asks in " : " in ", link);

  const body = document.createElement("p");
  body.append(...highlighted(text));
  const mention = element("article", "message");
  mention.append(by, body);
  append(mention, false);
}

/** The text in pieces, those marked that name the one whose mentions these are. */
function highlighted(text) {
  if (!name) return [text];
  const escaped = name.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
  const pieces = text.split(new RegExp(`(@${escaped})`, "i"));
  return pieces.map((piece, index) => (index % 2 ? element("mark", "", piece) : piece));
}

keepOpen(connect);
