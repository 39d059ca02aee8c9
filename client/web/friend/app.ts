/** What the page knows, and how it gets from one screen to the next. What is shown, `screens.ts` says. */
import { Malformed, Refusal, Rejection, Unavailable } from '../../../attestation/errors.ts'
import type { Primitives } from '../../../attestation/primitives/primitives.ts'
import { readMessage } from '../codes/message.ts'
import { button, type Child, h } from './dom.ts'
import { openOffer, receive } from './holding.ts'
import { type Kept, type Lid, merged, needsPassphrase, openKept, sealKept } from './kept.ts'
import * as screens from './screens.ts'
import { Conflict, Store } from './store.ts'

export const now = (): number => Math.floor(Date.now() / 1000)

/** What stays on top of every screen until it is no longer so. */
const warnings = {
  nowhere:
    'This browser keeps nothing for this page: storage is switched off, full, or this is a private window. When you close the page, all of it is gone. Save your file before that, and open the file here next time.',
  cleared:
    "This browser's storage was cleared while the page was open. What you hold is still here, in this page alone: save your file now.",
  damaged:
    'What this browser kept for this page is damaged, or of a newer version of it. It is left as it is. Use the newest page, or your saved file in another browser.',
  twoTabs:
    'This page is open in another tab, too. Go on in one of them only. Nothing that one tab writes is overwritten by the other.',
} as const
type Warning = keyof typeof warnings

export class App {
  readonly p: Primitives
  kept: Kept | null = null
  lid: Lid = null
  #store: Store | null = null
  /** Of the record that {@link kept} was read from or written to; null where there is none. */
  #revision: number | null = null
  #locked: Uint8Array | null = null
  /** Came before there was a key, or while it was locked. */
  #waiting: Uint8Array | null = null
  #isActing = false
  readonly #warnings = new Set<Warning>()
  readonly #main: HTMLElement
  readonly #notices = h('div', { class: 'notices' })
  readonly #status = h('p', { class: 'status', role: 'status' })
  readonly #alert = h('p', { class: 'alert', role: 'alert' })
  readonly #screen = h('div')

  constructor(p: Primitives, main: HTMLElement) {
    this.p = p
    this.#main = main
  }

  async start(): Promise<void> {
    this.#main.replaceChildren(this.#notices, this.#alert, this.#screen, this.#status)
    try {
      this.#store = await Store.open()
      await this.#load()
      this.#store.listen(what => void (what === 'changed' ? this.#changedElsewhere() : this.#warn('twoTabs')))
    } catch (error) {
      this.#store = null
      this.#warn(error instanceof Unavailable ? 'nowhere' : 'damaged')
    }
    addEventListener('beforeunload', event => {
      if (this.#revision === null && this.kept !== null && this.kept.exported === 0) event.preventDefault()
    })
    addEventListener('hashchange', () => this.#takeFragment())
    this.home()
    this.#takeFragment()
  }

  get keepsHere(): boolean {
    return this.#revision !== null
  }

  say = (text: string): void => {
    this.#alert.textContent = ''
    if (this.#status.textContent !== text) this.#status.textContent = text
  }

  /** A refusal in its own words; anything else is a mistake of this page, and said to be one. */
  refuse = (error: unknown): void => {
    const text =
      error instanceof Refusal
        ? sentence(error.reason.detail)
        : error instanceof Unavailable
          ? sentence(error.message)
          : `This page made a mistake (${error instanceof Error ? error.message : 'unknown'}). Nothing was changed.`
    this.#status.textContent = ''
    if (this.#alert.textContent === text) return
    this.#alert.textContent = text
    this.#alert.scrollIntoView({ block: 'nearest' })
  }

  /** The heading gets the focus, so that a screen reader begins there. */
  show(title: string, ...children: readonly Child[]): void {
    this.#alert.textContent = ''
    this.#status.textContent = ''
    const heading = h('h1', { tabindex: '-1' }, title)
    this.#screen.replaceChildren(heading, ...children.filter(child => child !== null))
    document.title = title
    heading.focus()
  }

  home(): void {
    if (this.kept !== null) screens.home(this, this.kept)
    else if (this.#locked !== null) screens.locked(this)
    else screens.start(this, this.#waiting !== null)
  }

  /** Runs what may be refused. Never throws. */
  attempt = (act: () => Promise<void>): void => void act().catch(this.refuse)

  /** The same for what somebody presses: one at a time, so that a second press does nothing. */
  act = (pressed: () => Promise<void>): void => {
    if (this.#isActing) return
    this.#isActing = true
    this.attempt(() =>
      pressed().finally(() => {
        this.#isActing = false
      }),
    )
  }

  /**
   * What came by any way in. Nothing is kept and nothing given away before somebody says so on the next screen. A saved
   * file is taken as a file alone: behind a link it would be a key that whoever sent the link knows, too.
   */
  received = (message: Uint8Array, isFile: boolean): void =>
    this.attempt(async () => {
      const received = receive(message, now())
      if (received.kind === 'own-file') {
        if (!isFile)
          throw new Malformed('this is a saved file of this page: open it as a file, if you saved it', 'data')
        if (this.#locked !== null) throw new Rejection('data', 'passphrase', 'open what is kept here first')
        return screens.importing(this, received.bytes)
      }
      if (this.kept === null) {
        this.#waiting = message
        this.home()
        return this.say('It waits until there is a key here.')
      }
      if (received.kind === 'request') return screens.request(this, this.kept, received.request)
      screens.offer(this, await openOffer(this.p, this.kept, received.bytes))
    })

  #takeFragment(): void {
    const { hash } = location
    if (hash.length <= 1) return
    // Out of the address bar, the history and whatever copies them.
    history.replaceState(null, '', location.href.slice(0, location.href.indexOf('#')))
    this.attempt(async () => this.received(readMessage(hash), false))
  }

  /**
   * The new state, in the browser first. False where another tab was quicker: then nothing was written, and what that
   * tab wrote is shown.
   */
  async keep(next: Kept, lid: Lid = this.lid): Promise<boolean> {
    const isNew = this.kept === null
    if (this.#store !== null && (isNew || this.#revision !== null)) {
      try {
        this.#revision = await this.#store.write(this.#revision, await sealKept(this.p, next, lid))
      } catch (error) {
        if (error instanceof Conflict && error.found === 'newer') {
          await this.#changedElsewhere()
          return false
        }
        this.#revision = null
        this.#warn(error instanceof Conflict ? 'cleared' : 'nowhere')
      }
    }
    this.kept = next
    this.lid = lid
    this.#locked = null
    return true
  }

  /** Into this browser again, after its storage was cleared. */
  #keepAgain = (): void =>
    this.attempt(async () => {
      if (this.kept === null || this.#store === null) return
      const sealed = await sealKept(this.p, this.kept, this.lid)
      try {
        this.#revision = await this.#store.write(null, sealed)
      } catch (error) {
        if (error instanceof Conflict) throw new Unavailable('another tab has begun anew here: save your file', 1)
        throw error
      }
      this.#warnings.delete('cleared')
      this.#warn(null)
      this.say('Kept in this browser again.')
    })

  async #load(): Promise<void> {
    const stored = (await this.#store?.read()) ?? null
    this.#revision = stored?.revision ?? null
    if (stored === null) return
    try {
      const opened = await openKept(this.p, stored.data, { lid: this.lid })
      this.kept = opened.kept
    } catch (error) {
      if (!(error instanceof Refusal) || error.reason.code !== 'passphrase') throw error
      this.kept = null
      this.#locked = stored.data
    }
  }

  async #changedElsewhere(): Promise<void> {
    const stored = await this.#store?.read()
    if (stored === null && this.kept !== null && this.#revision !== null) {
      this.#revision = null
      this.#warn('cleared')
    } else if (stored?.revision !== this.#revision && (this.#revision !== null || this.kept === null)) {
      await this.#load()
      this.#warn('twoTabs')
      this.home()
      this.refuse(new Unavailable('another tab changed what is kept here. This is the newest; nothing was overwritten'))
    }
  }

  /** Throws Rejection for another passphrase. */
  async unlock(passphrase: Uint8Array): Promise<void> {
    const { kept, lid } = await openKept(this.p, this.#locked as Uint8Array, { passphrase })
    this.kept = kept
    this.lid = lid
    this.#locked = null
    this.goOn()
  }

  /** Home, or what came too early. */
  goOn(): void {
    const waiting = this.#waiting
    this.#waiting = null
    this.home()
    if (waiting !== null) this.received(waiting, false)
  }

  /** A file that was exported. Throws Rejection where it is of another friend than is kept here. */
  async importFile(file: Uint8Array, passphrase: Uint8Array | null): Promise<boolean> {
    const options = passphrase === null ? { lid: this.lid } : { passphrase }
    const opened = await openKept(this.p, file, options)
    const next = this.kept === null ? { ...opened.kept, exported: now() } : merged(this.kept, opened.kept)
    return this.keep(next, this.kept === null ? opened.lid : this.lid)
  }

  fileNeedsPassphrase = (file: Uint8Array): boolean => needsPassphrase(file)

  async forget(): Promise<void> {
    if (this.#store !== null && this.#revision !== null) {
      await this.#store.forget(this.#revision).catch(async (error: unknown) => {
        if (!(error instanceof Conflict)) throw error
        if (error.found === 'newer') throw new Unavailable('another tab changed what is kept here; look at it first')
      })
    }
    this.kept = null
    this.lid = null
    this.#locked = null
    this.#revision = null
    this.#warnings.delete('cleared')
    this.#warn(null)
    this.home()
  }

  #warn(warning: Warning | null): void {
    if (warning !== null) this.#warnings.add(warning)
    const shown = [...this.#warnings].map(each =>
      h(
        'div',
        { class: 'warning', role: 'alert' },
        h('p', {}, warnings[each]),
        each === 'cleared' ? button('Keep it in this browser again', this.#keepAgain) : null,
      ),
    )
    this.#notices.replaceChildren(...shown)
  }
}

/** Refusals begin in lower case and end without a stop. */
const sentence = (text: string): string =>
  `${text.slice(0, 1).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`
