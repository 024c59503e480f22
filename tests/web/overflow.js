// Return what overlaps, is cut off, makes the page scroll sideways, or scrolls without the keyboard. `tests/web/overflow.py` runs this in the page.
() => {
  const found = [];
  const boxOf = (element) => element.getBoundingClientRect();
  const labelOf = (area) => `plot "${area.getAttribute("aria-label")}"`;

  function isShown(element) {
    const box = boxOf(element);
    return box.width > 1 && box.height > 1 && element.checkVisibility({ visibilityProperty: true })
      && !element.closest(".hidden, .skip, svg, [aria-hidden=true]");
  }

  function name(element) {
    const text = element.getAttribute("aria-label") || element.innerText || element.value || "";
    const shown = text.trim().replace(/\s+/g, " ").slice(0, 60);
    return `<${element.localName}${element.className ? ` class="${element.className}"` : ""}> ${shown}`;
  }

  /** The boxes of an element's lines, without what a scrolling parent hides. */
  function visibleBoxesOf(element) {
    let boxes = [...element.getClientRects()].map(({ left, right, top, bottom }) => ({ left, right, top, bottom }));
    for (let up = element.parentElement; up && up !== document.body; up = up.parentElement) {
      if (getComputedStyle(up).overflowX === "visible") continue;
      const edge = boxOf(up);
      boxes = boxes.map((box) => ({
        left: Math.max(box.left, edge.left), right: Math.min(box.right, edge.right),
        top: Math.max(box.top, edge.top), bottom: Math.min(box.bottom, edge.bottom),
      }));
    }
    return boxes.filter((box) => box.right > box.left && box.bottom > box.top);
  }

  function doOverlap(a, b, least) {
    return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 3 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > least;
  }

  /** Call `report` for each pair of elements that share more than a few pixels. */
  function eachOverlap(elements, least, report) {
    const boxes = elements.slice(0, 600).map((element) => [element, visibleBoxesOf(element)]);
    boxes.forEach(([one, ofOne], index) => {
      for (const [other, ofOther] of boxes.slice(index + 1)) {
        if (one.contains(other) || other.contains(one)) continue;
        if (ofOne.some((a) => ofOther.some((b) => doOverlap(a, b, least)))) report(one, other);
      }
    });
  }

  function findSidewaysScrolling() {
    const { scrollWidth, clientWidth } = document.documentElement;
    if (scrollWidth <= clientWidth) return;
    found.push(`the page scrolls sideways: ${scrollWidth} of ${clientWidth} px`);
    const scrolls = (element) => getComputedStyle(element).overflowX !== "visible";
    const isInScroller = (element) => {
      for (let up = element.parentElement; up; up = up.parentElement) if (scrolls(up)) return true;
      return false;
    };
    const wide = [...document.body.querySelectorAll("*")]
      .filter((element) => isShown(element) && boxOf(element).right > clientWidth + 1 && !isInScroller(element));
    const innermost = wide.filter((element) => !wide.some((other) => other !== element && element.contains(other)));
    for (const element of innermost.slice(0, 5)) found.push(`too wide: ${name(element)}`);
  }

  function findCutTexts() {
    for (const element of document.body.querySelectorAll("button, a, label, th, td, h1, h2, h3, figcaption, .state, .tag")) {
      const cuts = ["hidden", "clip"].includes(getComputedStyle(element).overflowX);
      if (cuts && isShown(element) && !element.title && element.scrollWidth > element.clientWidth + 1) {
        found.push(`text is cut off: ${name(element)}`);
      }
    }
  }

  function findOverlaps() {
    const main = document.querySelector("main");
    const controls = main.querySelectorAll("button, a, input:not([type=range]), select, textarea, h1, h2, h3, label");
    eachOverlap([...controls].filter(isShown), 3, (one, other) => found.push(`overlap: ${name(one)} and ${name(other)}`));
  }

  function findInPlots() {
    for (const area of document.body.querySelectorAll(".plot-area")) {
      const edge = boxOf(area);
      const texts = [...area.querySelectorAll("text")].filter((element) => element.textContent.trim() && boxOf(element).width > 1);
      for (const element of texts) {
        const box = boxOf(element);
        const isCut = box.left < edge.left - 2 || box.right > edge.right + 2 || box.bottom > edge.bottom + 2;
        if (isCut) found.push(`${labelOf(area)}: its text ${element.textContent} is cut off`);
      }
      eachOverlap(texts, 4, (one, other) => found.push(`${labelOf(area)}: its texts ${one.textContent} and ${other.textContent} overlap`));
    }
  }

  /** A part that scrolls sideways has to take the focus, with a name, or to hold something that takes it. */
  function findUnreachable() {
    for (const element of document.body.querySelectorAll("*")) {
      if (!["auto", "scroll"].includes(getComputedStyle(element).overflowX) || element.scrollWidth <= element.clientWidth + 1 || !isShown(element)) continue;
      const isReached = element.tabIndex >= 0 || element.querySelector("a[href], button, input, select, textarea, [tabindex='0']");
      if (!isReached) found.push(`scrolls sideways, but not with the keyboard: ${name(element)}`);
    }
  }

  findSidewaysScrolling();
  findUnreachable();
  findCutTexts();
  findOverlaps();
  findInPlots();
  return [...new Set(found)].slice(0, 20);
}
