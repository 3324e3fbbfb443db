// The lobby: the commands for a shell name the address that the page was opened with.

for (const origin of document.querySelectorAll("[data-origin]")) {
  origin.textContent = location.origin;
}
