// Draws the tiles that Python sends, as columns (see `Column` in gallery.py). All tiles are of one size, so that the place
// of each is known and only those near the view need to be in the document. Text goes in as textContent only: no class
// name can become markup.

const GAP = 10; // between tiles, in pixels
const EDGE = 4; // around them where the gallery scrolls, which would cut off focus rings
const FRAME = 7; // border and padding of a tile, on each side
const AT_ONCE = 300; // up to so many tiles are all in the document, where the browser's own search finds them
const OVERSCAN = 3; // rows that are ready above and below the view
const LINGER = 500; // milliseconds between two looks at whether a gallery that was cleared up is still in sight
const LINK = "influence-gallery-link"; // on the document: galleries have a shadow root each

const instances = new WeakMap(); // by the root they draw in
const galleries = new Map(); // by key

export default function ({ data, parentElement, setTriggerValue }) {
  let gallery = instances.get(parentElement);
  if (gallery?.grid !== parentElement.querySelector(".grid")) {
    gallery?.end(); // Streamlit has written the HTML anew
    gallery = new Gallery(parentElement);
  }
  instances.set(parentElement, gallery);
  const turn = gallery.update(data, setTriggerValue);
  // Streamlit also clears up after a call that a newer one has overtaken, and after the last one of a page it still shows
  return () => gallery.leave(turn);
}

const within = (value, least, most) => Math.max(least, Math.min(most, value));

class Gallery {
  constructor(root) {
    this.root = root;
    this.scroller = root.querySelector(".scroller");
    this.grid = root.querySelector(".grid");
    this.items = new Map(); // those in the document, by the name of their tile
    this.names = [];
    this.active = 0; // the tile that Tab comes to
    this.turn = 0; // counts updates
    this.at = { pointer: null, focus: null }; // names of tiles
    this.announced = null; // the link that this gallery lights
    this.lights = new Map(); // the link that each gallery lights, by its key
    this.ends = new AbortController();
    const on = (target, type, listener, options) =>
      target.addEventListener(type, listener, { signal: this.ends.signal, ...options });
    on(this.grid, "click", (event) => this.clicked(event));
    on(this.grid, "keydown", (event) => this.pressed(event));
    on(this.grid, "focusin", (event) => this.focused(event));
    on(this.grid, "focusout", () => this.announce({ focus: null }));
    on(this.grid, "pointerover", (event) => this.announce({ pointer: this.nameAt(event) }));
    on(this.grid, "pointerleave", () => this.announce({ pointer: null }));
    on(this.scroller, "scroll", () => this.draw(), { passive: true });
    on(document, "scroll", () => this.onPage() && this.draw(), { passive: true, capture: true });
    on(window, "resize", () => this.onPage() && this.draw());
    on(document, LINK, (event) => this.light(event.detail));
    on(document.fonts, "loadingdone", () => this.layout());
    this.observer = new ResizeObserver(() => requestAnimationFrame(() => this.resized()));
    this.observer.observe(this.scroller);
  }

  // Ends once it is out of the document, unless it is drawn again before that.
  leave(turn) {
    if (this.ended || turn !== this.turn) return;
    if (!this.grid.isConnected) this.end();
    else setTimeout(() => this.leave(turn), LINGER);
  }

  end() {
    if (this.ended) return;
    this.ended = true;
    this.announce({ pointer: null, focus: null });
    this.ends.abort();
    this.observer.disconnect();
    this.drop(() => true);
    if (galleries.get(this.wire.key) === this) galleries.delete(this.wire.key);
    instances.delete(this.root);
  }

  update(data, setTriggerValue) {
    this.setTriggerValue = setTriggerValue;
    if (data === this.data) return ++this.turn; // only the theme or the like has changed
    const before = this.wire;
    const hadFocus = this.root.activeElement?.closest?.(".tile") != null;
    const stop = this.names[this.active];
    const current = before && this.names[this.selected];
    this.data = data;
    this.wire = JSON.parse(data);
    const { key, count, tiles, pick, height, label } = this.wire;
    galleries.set(key, this);
    const seen = new Map();
    this.names = Array.from({ length: count }, (_, i) => {
      const id = this.value(tiles.id, i) ?? i;
      const times = seen.get(id) ?? 0;
      seen.set(id, times + 1);
      return times ? `${id}.${times}` : `${id}`;
    });
    this.has = {};
    for (const line of ["label", "note", "bar"]) this.has[line] = this.any(tiles[line]);
    this.selected = this.names.findIndex((_, i) => this.value(tiles.selected, i));
    this.linked = null;
    if (before && before.pick !== pick) this.drop(() => true);
    const again = this.names.indexOf(stop);
    if (!before) this.active = Math.max(0, this.selected);
    else this.active = again >= 0 ? again : within(this.active, 0, Math.max(0, count - 1));
    this.grid.setAttribute("aria-label", label);
    this.scroller.classList.toggle("scrolls", height !== null);
    this.scroller.classList.toggle("page", height === null);
    this.scroller.style.maxHeight = height === null ? "" : `${height}px`;
    this.layout();
    const moved = this.selected >= 0 && this.names[this.selected] !== current;
    if (moved && !hadFocus) this.reveal(this.selected);
    if (hadFocus && !this.root.activeElement?.closest?.(".tile")) this.focus(this.active, false);
    this.announce({});
    return ++this.turn;
  }

  // ---- columns

  value(column, i) {
    if (column === null || typeof column !== "object") return column;
    if (Array.isArray(column)) return column[i];
    if (column.at) return column.of[column.at[i]];
    if (column.same) return this.value(this.wire.tiles[column.same], i);
    return column.join.map((part) => this.value(part, i)).join("");
  }

  any(column) {
    if (column === null || column === undefined || column === false) return false;
    if (typeof column !== "object") return column !== "";
    const values = column.at ? column.of : column;
    return !Array.isArray(values) || values.some((value) => value !== null && value !== "" && value !== false);
  }

  tile(i) {
    const entries = Object.entries(this.wire.tiles);
    return Object.fromEntries(entries.map(([name, column]) => [name, this.value(column, i)]));
  }

  // ---- where things are

  onPage() {
    return this.wire && this.wire.height === null && this.names.length > AT_ONCE;
  }

  resized() {
    if (this.ended) return;
    if (this.scroller.clientWidth !== this.width) this.layout();
    else if (this.scroller.clientHeight !== this.tall) this.draw();
  }

  layout() {
    this.width = this.scroller.clientWidth;
    const { count, size, columns } = this.wire;
    this.edge = this.wire.height === null ? 0 : EDGE;
    const room = this.width - 2 * this.edge;
    if (!count) {
      this.drop(() => true);
      this.grid.style.height = "0";
    }
    if (!count || room <= 0) return; // without width it is in a tab that is not shown
    this.columns = columns ?? Math.max(1, Math.floor((room + GAP) / (size + GAP)));
    const fits = Math.max(1, Math.floor((room - GAP * (this.columns - 1)) / this.columns));
    this.side = columns === null ? fits : Math.min(size, fits);
    this.grid.style.setProperty("--lines", this.lines(this.side - 2 * FRAME));
    const sample = new Item(this.wire.pick, this.wire.words);
    sample.source = this.value(this.wire.tiles.src, 0); // as if it had its picture: only its height is asked for
    sample.show(this.tile(0), this.has, this.wire.words);
    sample.place.style.width = `${this.side}px`;
    this.grid.append(sample.place);
    this.row = sample.place.offsetHeight + GAP;
    sample.remove();
    this.rows = Math.ceil(count / this.columns);
    this.grid.style.height = `${this.rows * this.row - GAP + 2 * this.edge}px`;
    this.version = (this.version ?? 0) + 1;
    this.draw();
    this.scroller.removeAttribute("tabindex");
    const scrolls = this.wire.height !== null && this.scroller.scrollHeight > this.scroller.clientHeight;
    if (scrolls && !this.wire.pick) this.scroller.tabIndex = 0; // else its tiles are what the keyboard comes to
  }

  // Two lines of names where any of them needs two, else one.
  lines(width) {
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = `600 14px ${getComputedStyle(this.scroller).fontFamily}`;
    const widths = new Map();
    const measure = (text) => {
      if (text === null || text === undefined) return 0;
      if (!widths.has(text)) widths.set(text, 1.04 * pen.measureText(text).width);
      return widths.get(text);
    };
    const { label, struck, before } = this.wire.tiles;
    const long = (_, i) => {
      const old = measure(this.value(struck, i) ?? this.value(before, i));
      return old + (old && 10) + measure(this.value(label, i)) > width;
    };
    return this.names.some(long) ? 2 : 1;
  }

  // The part of the grid that is in view, in its own pixels.
  view() {
    this.tall = this.scroller.clientHeight;
    if (this.wire.height !== null) return [this.scroller.scrollTop, this.scroller.scrollTop + this.tall];
    const top = this.grid.getBoundingClientRect().top;
    return [-top, window.innerHeight - top];
  }

  drop(unwanted) {
    for (const [name, item] of this.items) {
      if (!unwanted(name)) continue;
      item.remove();
      this.items.delete(name);
    }
  }

  draw() {
    if (!this.row || !this.names.length || this.ended) return;
    const count = this.names.length;
    let [first, last] = [0, count - 1];
    if (count > AT_ONCE) {
      const [top, bottom] = this.view();
      first = within(Math.floor(top / this.row) - OVERSCAN, 0, this.rows) * this.columns;
      last = Math.min(last, within(Math.ceil(bottom / this.row) + OVERSCAN, 0, this.rows) * this.columns - 1);
    }
    const wanted = [];
    for (let i = first; i <= last; i++) wanted.push(i);
    // the tab stop stays, wherever it is: a scrolled list keeps its focus
    if (this.wire.pick && this.active < first) wanted.unshift(this.active);
    else if (this.wire.pick && this.active > last) wanted.push(this.active);
    const names = new Set(wanted.map((i) => this.names[i]));
    this.drop((name) => !names.has(name));
    const focus = this.root.activeElement;
    let next = this.grid.firstChild;
    for (const i of wanted) {
      const item = this.item(i);
      if (item.place === next) next = next.nextSibling;
      else this.grid.insertBefore(item.place, next);
    }
    // a tile that was moved in the document, because the order has changed, has lost it
    if (focus !== this.root.activeElement && this.grid.contains(focus)) focus.focus({ preventScroll: true });
  }

  item(i) {
    const name = this.names[i];
    let item = this.items.get(name);
    if (!item) this.items.set(name, (item = new Item(this.wire.pick, this.wire.words)));
    if (this.wire.pick) item.card.tabIndex = i === this.active ? 0 : -1;
    if (item.index === i && item.version === this.version) return item;
    Object.assign(item, { index: i, version: this.version });
    item.side = this.side - 2 * FRAME; // of the picture
    item.sharpen();
    const { style } = item.place;
    style.width = `${this.side}px`;
    const [x, y] = [i % this.columns, Math.floor(i / this.columns)];
    style.transform = `translate(${this.edge + x * (this.side + GAP)}px, ${this.edge + y * this.row}px)`;
    item.place.setAttribute("aria-posinset", i + 1);
    item.place.setAttribute("aria-setsize", this.names.length);
    const tile = this.tile(i);
    item.show(tile, this.has, this.wire.words);
    item.card.dataset.name = name;
    item.link = tile.link ?? null;
    item.card.classList.toggle("lit", item.link !== null && [...this.lights.values()].includes(item.link));
    return item;
  }

  // Scrolls the gallery, never the page.
  reveal(i) {
    if (this.wire.height === null || !this.row) return;
    const top = Math.floor(i / this.columns) * this.row;
    const { scrollTop, clientHeight } = this.scroller;
    const bottom = top + this.row - GAP + 2 * this.edge;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (bottom > scrollTop + clientHeight) this.scroller.scrollTop = bottom - clientHeight;
  }

  // ---- keyboard and pointer

  nameAt(event) {
    return event.target.closest?.(".tile")?.dataset.name ?? null;
  }

  focused(event) {
    const name = this.nameAt(event);
    const i = this.names.indexOf(name);
    if (i >= 0 && i !== this.active) {
      const old = this.items.get(this.names[this.active]);
      this.active = i;
      if (old) old.card.tabIndex = -1;
      this.item(i);
    }
    this.announce({ focus: name });
  }

  focus(i, scroll = true) {
    this.active = within(i, 0, this.names.length - 1);
    this.draw();
    const item = this.items.get(this.names[this.active]);
    if (!item) return;
    item.card.focus({ preventScroll: true });
    if (!scroll) return;
    item.place.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.draw();
  }

  pressed(event) {
    if (!this.wire.pick || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    if (event.key === "Enter" && event.repeat) return event.preventDefault(); // a key held down is one pick
    const [i, last] = [this.active, this.names.length - 1];
    const down = (rows) => {
      const row = within(Math.floor(i / this.columns) + rows, 0, this.rows - 1);
      return Math.min(last, row * this.columns + (i % this.columns));
    };
    const [top, bottom] = this.view();
    const page = Math.max(1, Math.floor((Math.min(bottom, this.rows * this.row) - Math.max(0, top)) / this.row));
    const targets = {
      ArrowLeft: i - 1,
      ArrowRight: i + 1,
      ArrowUp: down(-1),
      ArrowDown: down(1),
      PageUp: down(-page),
      PageDown: down(page),
      Home: 0,
      End: last,
    };
    if (!Object.hasOwn(targets, event.key)) return;
    event.preventDefault();
    this.focus(targets[event.key]);
  }

  clicked(event) {
    const name = this.nameAt(event);
    if (!this.wire.pick || name === null) return;
    if (event.detail > 1 && name === this.picked) return; // a double click is one pick
    this.picked = name;
    const i = this.names.indexOf(name);
    this.focus(i, false); // Safari does not focus a button that is clicked
    comeBackAfterDialog(this.wire.key, name);
    this.setTriggerValue("picked", this.value(this.wire.tiles.id, i));
  }

  // ---- linked tiles

  announce(change) {
    Object.assign(this.at, change);
    const i = this.names.indexOf(this.at.pointer ?? this.at.focus);
    const link = i < 0 ? null : (this.value(this.wire.tiles.link, i) ?? null);
    if (link === this.announced) return;
    this.announced = link;
    const tell = (detail) => document.dispatchEvent(new CustomEvent(LINK, { detail })) && detail;
    const told = tell({ from: this.wire.key, link, count: 0 });
    if (link !== null && told.count < 2) tell({ from: this.wire.key, link: null, count: 0 }); // alone, it needs no light
  }

  light(detail) {
    if (detail.link === null) this.lights.delete(detail.from);
    else this.lights.set(detail.from, detail.link);
    if (!this.linked) {
      this.linked = new Map();
      this.names.forEach((_, i) => {
        const link = this.value(this.wire.tiles.link, i) ?? null;
        this.linked.set(link, (this.linked.get(link) ?? 0) + 1);
      });
    }
    detail.count += this.linked.get(detail.link) ?? 0;
    const lit = new Set(this.lights.values());
    for (const item of this.items.values()) item.card.classList.toggle("lit", lit.has(item.link));
  }

  comeBack(name) {
    const focus = document.activeElement;
    if (this.ended || this.root.activeElement?.closest?.(".tile") || (focus && !focus.contains(this.root.host))) return;
    const i = this.names.indexOf(name);
    this.focus(i >= 0 ? i : this.active);
  }
}

const COMING_BACK = 3000; // milliseconds in which a dialog that is gone, or the page drawn anew, may still move the focus

function keepComingBack(key, name) {
  const end = performance.now() + COMING_BACK;
  const events = ["keydown", "pointerdown"];
  let acted = false; // whoever presses something decides where the focus is
  const act = () => (acted = true);
  for (const event of events) document.addEventListener(event, act, { capture: true, once: true });
  const again = () => {
    if (!acted && performance.now() < end) {
      galleries.get(key)?.comeBack(name);
      setTimeout(again, 60);
    } else for (const event of events) document.removeEventListener(event, act, { capture: true });
  };
  again();
}

// Streamlit cannot give the focus back to a tile when a dialog closes: it does not see into the shadow root.
let waiting = null; // for the dialog of the last pick

function comeBackAfterDialog(key, name) {
  waiting?.disconnect();
  const dialogs = () => document.querySelectorAll('[role="dialog"]').length;
  const before = dialogs();
  let opened = false;
  const observer = (waiting = new MutationObserver(() => {
    const open = dialogs() > before;
    if (open) opened = true;
    if (open || !opened) return;
    observer.disconnect();
    keepComingBack(key, name);
  }));
  observer.observe(document.body, { childList: true, subtree: true });
  setTimeout(() => opened || observer.disconnect(), 60_000); // this pick opened none
}
