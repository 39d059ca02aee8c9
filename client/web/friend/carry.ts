/** A message on its way out of the page: as a file, as text, as codes one after the other. */
import type { Primitives } from '../../../attestation/primitives/primitives.ts'
import { messageText } from '../codes/message.ts'
import { drawCode, modulePath } from '../codes/qr.ts'
import { seriesOf } from '../codes/series.ts'
import { button, field, h, picture, save } from './dom.ts'

/** Long enough for a phone to find and read one. */
const CODE_MILLISECONDS = 700

type Outgoing = Readonly<{ message: Uint8Array; file: string; what: string; say: (text: string) => void }>

export function carry(p: Primitives, { message, file, what, say }: Outgoing): HTMLElement {
  const text = messageText(message)
  const written = h('textarea', { readonly: true, rows: '4', spellcheck: 'false' })
  written.value = text
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text)
      say('Copied.')
    } catch {
      written.focus()
      written.select()
      say('This browser does not let the page copy. The text is selected: copy it yourself.')
    }
  }
  const codes = h('div', { class: 'codes' })
  const show = button('Show as codes', () => {
    const isShown = codes.childElementCount > 0
    if (isShown) stop(codes)
    else codes.replaceChildren(...series(p, message, what))
    show.textContent = isShown ? 'Show as codes' : 'Hide the codes'
  })
  return h(
    'div',
    { class: 'carry' },
    h(
      'div',
      { class: 'row' },
      button('Save as a file', () => save(file, message), 'main'),
      button('Copy as text', () => void copy()),
      show,
    ),
    codes,
    h('details', {}, h('summary', {}, 'The text itself'), field(`${what}, as text`, written)),
  )
}

const running = new WeakMap<Element, ReturnType<typeof setInterval>>()

function stop(codes: Element): void {
  for (const child of codes.children) clearInterval(running.get(child))
  codes.replaceChildren()
}

/** Turns by itself, unless that is unwelcome here; whoever cannot keep up turns by hand. */
function series(p: Primitives, message: Uint8Array, what: string): HTMLElement[] {
  const all = seriesOf(p, message)
  const stage = h('div', { class: 'stage' })
  const place = h('p', { class: 'place' })
  let at = 0
  const turn = (by: number) => {
    at = (at + by + all.length) % all.length
    const modules = drawCode(all[at] as string, 'medium')
    stage.replaceChildren(picture(modules.length, modulePath(modules), `${what}, code ${at + 1} of ${all.length}`))
    place.textContent = `Code ${at + 1} of ${all.length}`
  }
  turn(0)
  if (all.length === 1) return [stage]
  const isTurning = () => running.has(stage)
  const halt = () => {
    clearInterval(running.get(stage))
    running.delete(stage)
    toggle.textContent = 'Turn by itself'
  }
  const go = () => {
    const timer = setInterval(() => (stage.isConnected ? turn(1) : halt()), CODE_MILLISECONDS)
    running.set(stage, timer)
    toggle.textContent = 'Hold still'
  }
  const toggle = button('Turn by itself', () => (isTurning() ? halt() : go()))
  const byHand = (label: string, by: number) =>
    button(label, () => {
      halt()
      turn(by)
    })
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) queueMicrotask(go)
  return [stage, place, h('div', { class: 'row' }, byHand('Previous code', -1), toggle, byHand('Next code', 1))]
}
