/** Elements made in code alone: no markup is ever parsed, so nothing that a message says can become some. */

type Attributes = Readonly<Record<string, string | boolean | ((event: Event) => void)>>
export type Child = Node | string | null

/** `on…` attributes are listeners, true is an attribute without a value, false is none. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name.slice(2), value)
    else if (value !== false) element.setAttribute(name, value === true ? '' : value)
  }
  for (const child of children) if (child !== null) element.append(child)
  return element
}

const SVG = 'http://www.w3.org/2000/svg'

/** One path on white, as codes are wherever the page is dark. */
export function picture(side: number, path: string, name: string): SVGSVGElement {
  const svg = document.createElementNS(SVG, 'svg')
  const attributes = {
    viewBox: `0 0 ${side} ${side}`,
    role: 'img',
    'aria-label': name,
    'shape-rendering': 'crispEdges',
  }
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value)
  const ground = document.createElementNS(SVG, 'rect')
  for (const [key, value] of Object.entries({ width: side, height: side, fill: '#fff' })) {
    ground.setAttribute(key, String(value))
  }
  const dark = document.createElementNS(SVG, 'path')
  dark.setAttribute('d', path)
  dark.setAttribute('fill', '#000')
  svg.append(ground, dark)
  return svg
}

let made = 0
/** A control with its label, and a hint that screen readers say with it. */
export function field(
  label: string,
  control: HTMLInputElement | HTMLTextAreaElement,
  hint: string | null = null,
): HTMLElement {
  const id = `field-${++made}`
  control.id = id
  if (hint !== null) control.setAttribute('aria-describedby', `${id}-hint`)
  const said = hint === null ? null : h('p', { class: 'hint', id: `${id}-hint` }, hint)
  return h('div', { class: 'field' }, h('label', { for: id }, label), said, control)
}

export const button = (label: string, act: () => void, kind: 'main' | 'plain' | 'danger' = 'plain') =>
  h('button', { type: 'button', class: kind, onclick: act }, label)

export const section = (title: string, ...children: readonly Child[]): HTMLElement => {
  const id = `section-${++made}`
  return h('section', { 'aria-labelledby': id }, h('h2', { id }, title), ...children)
}

export const lines = (...items: readonly Child[]): HTMLElement =>
  h('ul', {}, ...items.map(item => (item === null ? null : h('li', {}, item))))

/** Hands a file to the person. */
export function save(name: string, bytes: Uint8Array): void {
  const url = URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>]))
  h('a', { href: url, download: name }).click()
  setTimeout(() => URL.revokeObjectURL(url), 60_000)
}
