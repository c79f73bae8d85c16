// A drawing that is dragged and zoomed. Zooming only changes the element's size, so that panning is the browser's own
// scrolling, which is fast whatever is drawn.

class Zoom {
  constructor(drawing, width, height) {
    Object.assign(this, { drawing, width, height, scale: 1 });
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.area = el("div", { class: "scroll", tabindex: 0, role: "img", "aria-label": "drawing; arrow keys move it, + and - zoom" }, drawing);
    this.area.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.by(event.deltaY < 0 ? 1.15 : 1 / 1.15, event.offsetX, event.offsetY);
    }, { passive: false });
    this.drag();
    this.apply();
  }

  apply() {
    this.drawing.setAttribute("width", this.width * this.scale);
    this.drawing.setAttribute("height", this.height * this.scale);
  }

  by(factor) {
    const area = this.area, before = this.scale;
    this.scale = Math.min(6, Math.max(0.08, this.scale * factor));
    const ratio = this.scale / before, x = area.scrollLeft + area.clientWidth / 2, y = area.scrollTop + area.clientHeight / 2;
    this.apply();
    area.scrollLeft = x * ratio - area.clientWidth / 2;
    area.scrollTop = y * ratio - area.clientHeight / 2;
  }

  fit(wholly) {
    const wide = this.area.clientWidth / this.width, high = this.area.clientHeight / this.height;
    this.scale = Math.min(1, wholly ? Math.min(wide, high) : wide) || 1;
    this.apply();
  }

  show(x, y, width, height) {
    const s = this.scale, area = this.area;
    if (y * s < area.scrollTop || (y + height) * s > area.scrollTop + area.clientHeight) area.scrollTop = (y + height / 2) * s - area.clientHeight / 2;
    if (width * s > area.clientWidth) area.scrollLeft = x * s - 16;
    else if (x * s < area.scrollLeft || (x + width) * s > area.scrollLeft + area.clientWidth) area.scrollLeft = (x + width / 2) * s - area.clientWidth / 2;
  }

  drag() {
    let from = null;
    this.area.addEventListener("pointerdown", (e) => { if (e.button === 0) from = [e.clientX, e.clientY, this.area.scrollLeft, this.area.scrollTop]; });
    this.area.addEventListener("pointermove", (e) => {
      if (!from || !(e.buttons & 1)) return;
      this.area.scrollLeft = from[2] - (e.clientX - from[0]);
      this.area.scrollTop = from[3] - (e.clientY - from[1]);
    });
    this.area.addEventListener("pointerup", () => { from = null; });
  }

  buttons() {
    return [
      el("button", { type: "button", title: "zoom in (+)", on: { click: () => this.by(1.25) } }, "+"),
      el("button", { type: "button", title: "zoom out (-)", on: { click: () => this.by(0.8) } }, "−"),
      el("button", { type: "button", title: "all of it (0)", on: { click: () => this.fit(true) } }, "fit"),
    ];
  }
}
