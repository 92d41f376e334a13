// Local times and copy buttons. Without this script the page has times in UTC, and text to select.
const ukDay = { day: "numeric", month: "short", year: "numeric" };
for (const time of document.querySelectorAll("time[data-show]")) {
  const when = new Date(time.dateTime);
  const day = when.toLocaleDateString("en-GB", ukDay).replaceAll(" ", "\u00a0");
  const clock = when.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  time.title = time.textContent;
  time.textContent = { clock, day, full: `${day}, ${clock}` }[time.dataset.show];
}
const said = document.getElementById("said");
for (const button of document.querySelectorAll("button[data-copy]")) {
  const label = button.firstElementChild;
  const code = document.getElementById(button.dataset.copy);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      label.textContent = said.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      label.textContent = "Selected";
      said.textContent = "Selected. Copy it with the keyboard.";
    }
    setTimeout(() => { label.textContent = "Copy"; said.textContent = ""; }, 2500);
  });
}
