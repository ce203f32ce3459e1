// One tile of a gallery. This text is put before that of gallery.js: a component of Streamlit is one module.

const make = (name, className, ...children) => {
  const made = document.createElement(name);
  made.className = className;
  made.append(...children);
  return made;
};

const setText = (element, text) => {
  const shown = text === null || text === undefined ? "" : String(text);
  if (element.textContent !== shown) element.textContent = shown;
};

// Whether a text says another one, as words of its own: "image 17" does not say "7".
const letter = /[\p{L}\p{N}]/u;
const says = (text, part) => {
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + 1)) {
    if (!letter.test(text[at - 1] ?? "") && !letter.test(text[at + part.length] ?? "")) return true;
  }
  return false;
};

function flag() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 12 12");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M2.5 1v10.5h1.4V7.6H10.5L8.6 4.4 10.5 1.2H3.9V1z");
  path.setAttribute("fill", "currentColor");
  svg.append(path);
  const mark = make("span", "flag", svg);
  mark.setAttribute("role", "img");
  return mark;
}

// One place in the list: what is drawn of a tile, changed rather than made anew, so that it keeps focus and picture.
class Item {
  constructor(pickable, words) {
    const parts = {
      image: make("img", ""),
      missing: make("span", "missing", words.missing),
      flag: flag(),
      badge: make("bdi", "badge"),
      struck: make("s", "", make("bdi", "")),
      before: make("bdi", ""),
      name: make("bdi", ""),
      note: make("bdi", "note"),
      fill: make("i", ""),
    };
    Object.assign(this, parts);
    this.label = make("span", "label", this.struck, this.before, this.name);
    this.bar = make("span", "bar", this.fill);
    this.texts = make("span", "texts", this.label, this.note, this.bar);
    this.card = make(pickable ? "button" : "div", "tile");
    if (pickable) this.card.type = "button";
    this.card.append(make("span", "picture", this.image, this.missing, this.flag, this.badge), this.texts);
    this.place = make("div", "item", this.card);
    this.place.setAttribute("role", "listitem");
    this.missing.setAttribute("role", "img");
    this.missing.hidden = true;
    this.flag.setAttribute("aria-label", words.flagged);
    this.badge.setAttribute("aria-hidden", "true"); // the picture's text has all of it
    this.texts.setAttribute("aria-hidden", "true");
    this.image.loading = "lazy";
    this.image.decoding = "async";
    this.image.draggable = false;
    this.image.onerror = () => this.found(false);
    this.image.onload = () => {
      this.found(true);
      this.sharpen();
    };
  }

  // Pixels stay crisp where they are enlarged much. By a little, and on a fine screen, that would only make them uneven.
  sharpen() {
    const { naturalWidth, naturalHeight } = this.image;
    this.image.classList.toggle("enlarged", this.side >= 2 * Math.max(naturalWidth, naturalHeight));
  }

  found(is) {
    this.image.hidden = !is;
    this.missing.hidden = is;
  }

  show(tile, has, words) {
    const said = [tile.tip ?? tile.struck ?? tile.label ?? ""].map(String);
    for (const more of [tile.struck, tile.before, tile.label, tile.badge, tile.note, tile.more]) {
      if (more !== null && more !== undefined && !said.some((text) => says(text, String(more)))) said.push(String(more));
    }
    const alt = said.filter(Boolean).join(", ");
    if (this.source !== tile.src) {
      this.source = tile.src;
      this.found(true);
      this.image.src = tile.src;
    }
    this.image.alt = alt;
    this.missing.setAttribute("aria-label", `${alt}, ${words.missing}`);
    this.place.title = [...said, tile.flagged ? words.flagged : ""].filter(Boolean).join("\n");
    this.card.dataset.id = tile.id;
    this.card.classList.toggle("flagged", Boolean(tile.flagged));
    this.card.classList.toggle("selected", Boolean(tile.selected));
    if (tile.selected) this.card.setAttribute("aria-current", "true");
    else this.card.removeAttribute("aria-current");
    this.flag.hidden = !tile.flagged;
    setText(this.badge, tile.badge);
    this.badge.hidden = !tile.badge;
    const renamed = tile.struck !== null && tile.struck !== undefined;
    this.label.hidden = !has.label;
    const before = tile.before !== null && tile.before !== undefined;
    this.label.classList.toggle("renamed", renamed || before);
    this.before.hidden = !before;
    setText(this.before, tile.before);
    this.struck.hidden = !renamed;
    setText(this.struck.firstChild, tile.struck);
    setText(this.name, tile.label);
    this.note.hidden = !has.note;
    setText(this.note, tile.note);
    this.bar.hidden = !has.bar;
    const bar = Number(tile.bar ?? 0);
    const kind = tile.kind ?? (bar < 0 ? "harmful" : "helpful");
    this.bar.classList.toggle("signed", kind !== "suspect");
    this.fill.className = kind;
    this.fill.style.width = `${Math.round((kind === "suspect" ? 100 : 50) * Math.min(1, Math.abs(bar)))}%`;
  }

  remove() {
    this.image.onerror = null;
    this.image.removeAttribute("src"); // a picture that is scrolled past is not waited for
    this.place.remove();
  }
}
