// What the tests ask of the page, from inside of it: one entry a fault, as text.

window.checks = (() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });

  /** Red, green, blue (0 to 255) and opacity (0 to 1) of any CSS colour. */
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = ([red, green, blue, alpha], below) => {
    const mixed = [red, green, blue].map(
      (value, index) => value * alpha + below[index] * (1 - alpha),
    );
    return [...mixed, 1];
  };
  const luminance = (color) => {
    const linear = color
      .slice(0, 3)
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ratio = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };

  const ancestors = (element) => {
    const found = [];
    for (let each = element; each; each = each.parentElement) found.push(each);
    return found;
  };
  /** What is behind the content of an element. */
  const ground = (element) =>
    ancestors(element)
      .reverse()
      .map((each) => rgba(getComputedStyle(each).backgroundColor))
      .reduce((below, color) => over(color, below), rgba('Canvas'));
  const opacity = (element) =>
    ancestors(element).reduce(
      (product, each) => product * Number(getComputedStyle(each).opacity),
      1,
    );
  const isSeen = (element) =>
    element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) &&
    !element.closest('.unseen, .skip:not(:focus), pattern, :disabled, :disabled + label');

  const contrast = (element, color, below, least) => {
    const [red, green, blue, alpha] = rgba(color);
    const found = ratio(over([red, green, blue, alpha * opacity(element)], below), below);
    return found < least
      ? [`${nameOf(element)}: ${color} has ${found.toFixed(2)}:1, not ${least}:1`]
      : [];
  };
  const nameOf = (element) => {
    const parent = element.parentElement;
    const own = `${element.tagName.toLowerCase()}.${element.getAttribute('class') ?? ''}`;
    return parent
      ? `${parent.tagName.toLowerCase()}.${parent.getAttribute('class') ?? ''} > ${own}`
      : own;
  };

  /** Texts that do not stand out by 4.5:1, those in charts included. */
  const texts = () => {
    const faults = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.textContent.trim() || !isSeen(element)) continue;
      const style = getComputedStyle(element);
      const color = element instanceof SVGElement ? style.fill : style.color;
      contrast(element, color, ground(element), 4.5).forEach((fault) => faults.add(fault));
    }
    return [...faults];
  };

  /** What is drawn, and by which property, unless it has a border. Behind it is what is behind its parent. */
  const DRAWN = [
    ['.line, .area, .density, .mean, .cursor', 'stroke'],
    ['.strip rect:not(.unknown)', 'fill'],
    ['.dot, .knob, .length', 'backgroundColor'],
    ['input:not([type="radio"], [type="checkbox"])', 'backgroundColor'],
  ];
  /** What is drawn and does not stand out by 3:1. */
  const drawings = () => {
    const faults = new Set();
    for (const [selector, property] of DRAWN) {
      for (const element of document.querySelectorAll(selector)) {
        if (
          !(element.getBoundingClientRect().width || element.getBoundingClientRect().height) ||
          !isSeen(element)
        )
          continue;
        const style = getComputedStyle(element);
        const color = parseFloat(style.borderTopWidth) > 0 ? style.borderTopColor : style[property];
        contrast(element, color, ground(element.parentElement), 3).forEach((fault) =>
          faults.add(fault),
        );
      }
    }
    for (const knob of document.querySelectorAll('.knob')) {
      const color = getComputedStyle(knob, '::after').backgroundColor;
      contrast(knob, color, ground(knob), 3).forEach((fault) => faults.add(`::after of ${fault}`));
    }
    return [...faults];
  };

  /** What sticks out sideways. */
  const overflow = () => {
    const width = document.documentElement.clientWidth;
    const faults = [...document.body.querySelectorAll('*')]
      .filter(
        (element) =>
          element instanceof HTMLElement && isSeen(element) && !element.matches('.segments input'),
      )
      .filter((element) => {
        const { left, right } = element.getBoundingClientRect();
        return right > width + 1 || left < -1;
      })
      .map((element) => `${nameOf(element)} sticks out of ${width} px`);
    const { scrollWidth } = document.documentElement;
    return scrollWidth > width
      ? [`the page is ${scrollWidth} px wide, the window ${width}`, ...faults]
      : faults;
  };

  /** What is in a list of terms and is neither a term nor a description. */
  const lists = () =>
    [...document.querySelectorAll('dl > :not(div, dt, dd), dl > div > :not(dt, dd)')].map(
      (element) => `${nameOf(element)} is in a dl`,
    );

  /** How a series or its key is drawn, but for its colour. */
  const look = (element) => {
    const style = getComputedStyle(element);
    const [, pattern] = element.getAttribute('fill')?.match(/^url\(#(.+)\)$/) ?? [];
    const hatch =
      pattern && document.getElementById(pattern).querySelector('.hatch').getAttribute('d');
    return JSON.stringify({
      dash: style.strokeDasharray,
      hatch: hatch ?? null,
      isArea: hatch != null,
    });
  };
  /** Charts in which two series look alike but for their colour, or a key does not look like its series. */
  const series = () =>
    [...document.querySelectorAll('.panel:has(> .chart)')].flatMap((panel) => {
      const drawn = [...panel.querySelectorAll('.chart .area, .chart .line')].map(look);
      const keys = [...panel.querySelectorAll('.legend li')].map((item) => {
        const key = item.querySelector('.key :is(.area, .line)');
        return key && look(key);
      });
      const faults = [];
      if (new Set(drawn).size !== drawn.length)
        faults.push(`${panel.id}: two series look alike: ${drawn}`);
      if (JSON.stringify(keys) !== JSON.stringify(drawn))
        faults.push(`${panel.id}: keys ${keys}, series ${drawn}`);
      return faults;
    });

  /** What axe-core says. In dark it is asked for colours only: all else is as it is in light. */
  const accessibility = async () => {
    const isDark = matchMedia('(prefers-color-scheme: dark) and (forced-colors: none)').matches;
    const rules = isDark
      ? { runOnly: ['color-contrast'] }
      : { rules: { 'target-size': { enabled: true } } };
    const { violations } = await axe.run(document, { resultTypes: ['violations'], ...rules });
    return violations.flatMap(({ id, nodes }) =>
      nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 200)}: ${failureSummary}`),
    );
  };

  /** The colours that readers choose, of those that a page may use. */
  const CHOSEN = ['Canvas', 'CanvasText', 'GrayText', 'Highlight', 'HighlightText'];
  /** What is drawn in another colour than those, while they are forced. */
  const forced = () => {
    const sample = document.body.appendChild(document.createElement('i'));
    const chosen = CHOSEN.map((color) => {
      sample.style.color = color;
      return String(rgba(getComputedStyle(sample).color));
    });
    sample.remove();
    const faults = new Set();
    for (const [selector, property] of [
      ...DRAWN,
      ['.knob, .badge, .track, .segments label', 'borderTopColor'],
    ]) {
      for (const element of document.querySelectorAll(selector)) {
        const color = getComputedStyle(element)[property];
        const [red, green, blue, alpha] = rgba(color);
        if (alpha > 0 && !chosen.includes(String([red, green, blue, 1])))
          faults.add(`${nameOf(element)}: ${property} is ${color}`);
      }
    }
    return [...faults];
  };

  const all = async () => [
    ...(await accessibility()),
    ...texts(),
    ...drawings(),
    ...overflow(),
    ...lists(),
    ...series(),
  ];
  return { accessibility, texts, drawings, overflow, lists, series, forced, all };
})();
