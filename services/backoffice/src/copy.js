// Copies the code beside a button, and says so. The class that is set here shows the buttons.
(() => {
  const SHOWN = 2000; // milliseconds until a button has its own name again

  document.documentElement.classList.add("copies");

  // The clipboard is there over https and on this machine alone. Elsewhere the text is selected, and copied if the browser does that.
  const copy = async (code) => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      return true;
    } catch {
      const selection = getSelection();
      selection.selectAllChildren(code);
      const isCopied = document.execCommand("copy");
      if (isCopied) selection.removeAllRanges();
      return isCopied;
    }
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const isCopied = await copy(button.parentElement.querySelector("code"));
    const status = document.getElementById("copy-status"), name = button.firstElementChild;
    const says = isCopied ? status.dataset.copied : status.dataset.selected;
    status.textContent = name.textContent = says;
    setTimeout(() => {
      name.textContent = button.dataset.copy;
      status.textContent = "";
    }, SHOWN);
  });
})();
