// Draws the tiles that Python sends. Text goes in as textContent only, so that no class name can become markup.
export default function ({ data, parentElement, setTriggerValue }) {
  const grid = parentElement.querySelector(".grid");
  const { tiles, size, pick } = JSON.parse(data);
  grid.style.setProperty("--tile", `${size}px`);
  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const draw = (tile) => {
    const card = element(pick ? "button" : "div", "tile");
    card.classList.toggle("flagged", Boolean(tile.flagged));
    card.classList.toggle("selected", Boolean(tile.selected));
    card.dataset.id = tile.id;
    card.setAttribute("role", "listitem");
    if (tile.tip) card.title = tile.tip;
    const image = element("img");
    image.loading = "lazy";
    image.decoding = "async";
    image.alt = tile.tip || tile.label || "";
    image.src = tile.src;
    card.append(image);
    const label = element("div", "label");
    if (tile.struck) label.append(element("s", "", tile.struck));
    label.append(tile.label ?? "");
    card.append(label);
    if (tile.note) card.append(element("div", "note", tile.note));
    if (tile.bar !== undefined) {
      const bar = element("div", "bar");
      const kind = tile.kind ?? (tile.bar < 0 ? "harmful" : "helpful");
      const fill = element("i", kind);
      fill.style.width = `${Math.round(100 * Math.min(1, Math.abs(tile.bar)))}%`;
      bar.append(fill);
      card.append(bar);
    }
    if (pick) card.onclick = () => setTriggerValue("picked", tile.id);
    return card;
  };
  grid.replaceChildren(...tiles.map(draw));
  grid.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !pick) return;
    const cards = [...grid.children];
    const next = cards[cards.indexOf(event.target.closest(".tile")) + step];
    if (next) next.focus();
    event.preventDefault();
  };
}
