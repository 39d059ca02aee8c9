/** What is shown, in the words that a friend reads. Each function fills the page. */
import { hex, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../../attestation/errors.ts'
import { encodeHolderKey, holderWords } from '../../recovery/holder.ts'
import { purposes, type RecoveryRequest, spokenCode } from '../../recovery/request.ts'
import { type App, now } from './app.ts'
import { carry } from './carry.ts'
import { button, type Child, field, h, lines, save, section } from './dom.ts'
import { accepted, askedFor, give, heldOf, keysOf, type Offer, prove, without } from './holding.ts'
import { type Kept, type KeptShare, newKept, newLid, sealKept } from './kept.ts'
import { readFile, take } from './take.ts'

const date = (seconds: number): string => new Date(seconds * 1000).toLocaleDateString('en-GB', { dateStyle: 'long' })
const moment = (seconds: number): string =>
  new Date(seconds * 1000).toLocaleString('en-GB', { dateStyle: 'long', timeStyle: 'short' })
/** In groups of four, as people read it to each other. */
const fingerprint = (bytes: Uint8Array): HTMLElement =>
  h('span', { class: 'fingerprint' }, (hex(bytes).match(/.{4}/g) as string[]).join(' '))
const fact = (name: string, value: Child): Child[] => [h('dt', {}, name), h('dd', {}, value)]

const passphraseInput = (purpose: 'new-password' | 'current-password'): HTMLInputElement =>
  h('input', { type: 'password', autocomplete: purpose, maxlength: '1024' })
/** The bytes of what was typed; the field is emptied. Composed, because keyboards differ. */
function typed(input: HTMLInputElement): Uint8Array {
  const passphrase = utf8(input.value.normalize('NFC'))
  input.value = ''
  return passphrase
}
/** What is kept at the time of an act, which may be more than when the screen was made. */
function current(app: App): Kept {
  if (app.kept === null) throw new Rejection('data', 'not-found', 'nothing is kept here any more')
  return app.kept
}
/** Deriving a key from a passphrase stops the page for a second: that is shown before. */
const painted = (): Promise<void> => new Promise(done => setTimeout(done, 50))

const form = (app: App, act: () => Promise<void>, ...children: readonly Child[]): HTMLFormElement => {
  const submit = (event: Event) => {
    event.preventDefault()
    app.act(act)
  }
  return h('form', { onsubmit: submit, novalidate: true }, ...children)
}
const submit = (label: string): HTMLButtonElement => h('button', { type: 'submit', class: 'main' }, label)

function nameOf(input: HTMLInputElement, whose: string): string {
  const name = input.value.trim()
  if (name !== '' && utf8(name).length <= 64) return name
  input.focus()
  throw new Malformed(`${whose}: a name of 1 to 64 letters`, 'data')
}

/** A passphrase twice, null where both are empty. */
function chosen(first: HTMLInputElement, second: HTMLInputElement): Uint8Array | null {
  if (first.value !== second.value) {
    second.focus()
    throw new Malformed('the two passphrases differ', 'data')
  }
  second.value = ''
  return first.value === '' ? null : typed(first)
}

const importField = (app: App): HTMLElement => {
  const input = h('input', { type: 'file' })
  input.addEventListener('change', () => {
    const [file] = input.files ?? []
    if (file === undefined) return
    app.attempt(async () => {
      const bytes = await readFile(file)
      input.value = ''
      app.received(bytes, true)
    })
  })
  return field('Your saved file', input)
}

export function start(app: App, isWaiting: boolean): void {
  const name = h('input', { type: 'text', autocomplete: 'name', maxlength: '64', required: true })
  const first = passphraseInput('new-password')
  const second = passphraseInput('new-password')
  const make = async () => {
    const called = nameOf(name, 'your name')
    const passphrase = chosen(first, second)
    app.say('Making your key…')
    await painted()
    const lid = passphrase === null ? null : newLid(app.p, passphrase)
    if (await app.keep(newKept(app.p, called), lid)) app.goOn()
    await navigator.storage?.persist?.().catch(() => false)
  }
  app.show(
    'Help a friend get their keys back',
    h(
      'p',
      { class: 'lead' },
      'Somebody you know asked you to help, should they ever lose all their devices. You would keep a ',
      h('strong', {}, 'share'),
      ': one piece of a key. Alone it opens nothing.',
    ),
    isWaiting
      ? h(
          'p',
          { class: 'warning' },
          'Something was sent to you, but there is no key in this browser. Did you make one before? Then its storage was cleared, or it was another browser: open your saved file below. A new key cannot open what was sealed for an old one.',
        )
      : null,
    section(
      'Begin',
      form(
        app,
        make,
        field('Your name, as your friend knows it', name),
        h(
          'details',
          {},
          h('summary', {}, 'Lock this page with a passphrase (optional)'),
          field('Passphrase', first, 'Asked for each time the page is opened. If you forget it, your share is lost.'),
          field('The same again', second),
        ),
        submit('Make my key'),
      ),
    ),
    section('You were here before?', importField(app)),
    section(
      'Good to know',
      lines(
        'This page talks to nobody. There is no account, and it works without a network. All of it stays in this browser.',
        'Do not use a private window: it forgets everything when it is closed.',
        'Browsers lose things. You will be asked to save a file; keep it like a spare key.',
      ),
    ),
  )
}

export function locked(app: App): void {
  const passphrase = passphraseInput('current-password')
  const unlock = async () => {
    app.say('Opening…')
    await painted()
    const bytes = typed(passphrase)
    await app.unlock(bytes).finally(() => bytes.fill(0))
  }
  app.show(
    'Locked',
    h('p', { class: 'lead' }, 'What you keep here is under your passphrase.'),
    form(app, unlock, field('Passphrase', passphrase), submit('Open')),
    forgetting(app, 'Did you forget the passphrase? Then what is kept here cannot be opened by anybody.'),
  )
}

export function home(app: App, kept: Kept): void {
  app.show(
    kept.shares.length === 0 ? 'You hold no share yet' : 'What you hold',
    ...(kept.shares.length === 0
      ? [
          h('p', { class: 'lead' }, 'Send your key to your friend, below. The share that comes back, you open here.'),
          yourKey(app, kept),
        ]
      : kept.shares.map(share => card(app, kept, share))),
    section(
      'Were you sent something?',
      h('p', {}, 'A share, a request for one, or your saved file. Nothing is kept or given away before you say so.'),
      take(app.p, app),
    ),
    kept.shares.length === 0 ? null : promises(),
    kept.shares.length === 0 ? null : yourKey(app, kept),
    copies(app, kept),
  )
}

function yourKey(app: App, kept: Kept): HTMLElement {
  const words = h('p', { class: 'words' }, '…')
  const ways = h('div')
  app.attempt(async () => {
    const { key } = await keysOf(app.p, kept)
    words.textContent = holderWords(app.p, key)
    const file = `${kept.name.replaceAll(/[^\p{L}\p{N}]+/gu, '-')}.key`
    ways.append(carry(app.p, { message: encodeHolderKey(key), file, what: 'Your key', say: app.say }))
  })
  return section(
    'Your key',
    h(
      'p',
      {},
      `${kept.name}, this is what shares are sealed to. It is not secret. Send it, and read these six words to your friend by phone, so that both of you know that nobody changed it on the way:`,
    ),
    words,
    ways,
  )
}

function card(app: App, kept: Kept, share: KeptShare): HTMLElement {
  const held = heldOf(share)
  const { from } = share
  const newest = Math.max(
    ...kept.shares.filter(each => hex(heldOf(each).owner) === hex(held.owner)).map(each => heldOf(each).version),
  )
  const question = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', maxlength: '200' })
  const shown = h('span', {}, share.shown === 0 ? 'not yet' : date(share.shown))
  const output = h('output', { class: 'answer' })
  const answer = async () => {
    const proved = prove(app.p, current(app), share, question.value, now())
    if (!(await app.keep(proved.kept))) return
    shown.textContent = date(now())
    output.replaceChildren(h('span', { class: 'hint' }, `Send this to ${from}: `), h('code', {}, proved.answer))
    app.say('')
    output.scrollIntoView({ block: 'center' })
  }
  return section(
    `A share of ${from}`,
    held.version < newest
      ? h(
          'p',
          { class: 'hint' },
          `An older plan: once ${from} says that plan ${newest} counts, you can remove this one.`,
        )
      : null,
    h(
      'dl',
      {},
      ...fact('Owner', fingerprint(held.owner)),
      ...fact('Plan', String(held.version)),
      ...fact('Kept since', date(share.accepted)),
      ...fact('Last shown to be here', shown),
      ...(share.given === 0 ? [] : fact('Given to a recovery', moment(share.given))),
    ),
    h(
      'details',
      {},
      h('summary', {}, `${from} sent a question`),
      form(
        app,
        answer,
        field(
          'The question',
          question,
          `32 digits and letters. The answer proves that you still hold the share of ${from}, and tells nothing of it.`,
        ),
        submit('Answer it'),
        output,
      ),
    ),
    h(
      'details',
      {},
      h('summary', {}, 'Remove this share'),
      h('p', {}, `Tell ${from} first: who counts on it may need it. It cannot be undone.`),
      button(
        `Remove the share of ${from}`,
        () => app.act(async () => void ((await app.keep(without(current(app), share))) && app.home())),
        'danger',
      ),
    ),
  )
}

const promises = (): HTMLElement => section('What you may be asked, and what never', whatToExpect())

const whatToExpect = (): HTMLElement =>
  lines(
    'Alone, your share opens nothing: you cannot read anything of your friend. Together with enough others it brings everything back. Tell nobody that you hold it.',
    'Once in a while your friend sends a question of 32 digits. The answer proves that you still have the share.',
    'If your friend loses everything, a request comes, and your friend calls or meets you. Both of you compare six words.',
    'Nobody honest asks without a call, is in a hurry, or wants your saved file or your passphrase. If somebody does: call your friend on a number that you have known for long.',
    'If you lose this, or no longer want it: say so, and your friend can choose somebody else.',
  )

export function offer(app: App, given: Offer): void {
  const { share, created, knownAs } = given
  const from = h('input', { type: 'text', autocomplete: 'off', maxlength: '64', required: true })
  from.value = knownAs ?? ''
  const agreed = h('input', { type: 'checkbox', id: 'agreed' })
  const keepIt = submit('Keep this share')
  keepIt.disabled = true
  agreed.addEventListener('change', () => {
    keepIt.disabled = !agreed.checked
  })
  const accept = async () => {
    const name = nameOf(from, 'whose share it is')
    if (!agreed.checked) return
    if (!(await app.keep(accepted(current(app), given, name, now())))) return
    app.home()
    app.say(`You hold a share of ${name}. Tell ${name} that it came, and save your file anew.`)
  }
  app.show(
    'A share for you',
    h(
      'p',
      { class: 'lead' },
      knownAs === null
        ? 'It comes from an owner of whom you hold nothing yet.'
        : `It comes from the owner whom you know as ${knownAs}.`,
    ),
    h(
      'dl',
      {},
      ...fact('Owner', fingerprint(share.owner)),
      ...fact('Plan', String(share.version)),
      ...fact('Sealed for you on', date(created)),
    ),
    knownAs === null
      ? h(
          'p',
          {},
          'Ask your friend, by phone or face to face, to read the owner’s fingerprint to you. It has to be this one.',
        )
      : null,
    section('What you agree to', whatToExpect()),
    form(
      app,
      accept,
      field('Whose is it? The name you know them by', from),
      h(
        'div',
        { class: 'tick' },
        agreed,
        h('label', { for: 'agreed' }, 'I have read this, and my friend told me that this share would come.'),
      ),
      h(
        'div',
        { class: 'row' },
        keepIt,
        button('Do not keep it', () => app.home()),
      ),
    ),
  )
}

export function request(app: App, kept: Kept, asked: RecoveryRequest): void {
  const shares = askedFor(kept, asked)
  const { from } = shares[0] as KeptShare
  const compared = h('input', { type: 'checkbox', id: 'compared' })
  const giveIt = submit('Give my share to that device')
  giveIt.disabled = true
  compared.addEventListener('change', () => {
    giveIt.disabled = !compared.checked
  })
  const answer = async () => {
    if (!compared.checked) return
    const given = await give(app.p, current(app), asked, now())
    if (await app.keep(given.kept)) answers(app, from, given.answers)
  }
  const words = spokenCode(app.p, asked).split(' ')
  app.show(
    `Somebody asks for your share of ${from}`,
    h(
      'p',
      { class: 'warning' },
      `It may be ${from}. It may be somebody who pretends to be. This page cannot tell: you can.`,
    ),
    h(
      'dl',
      {},
      ...fact(
        'Why',
        asked.purpose === purposes.stolen
          ? `devices or keys of ${from} may be in the hands of others`
          : `${from} lost every device`,
      ),
      ...fact('Owner', fingerprint(asked.owner)),
      ...fact('Plan', String(asked.version)),
      ...fact('Asked until', moment(asked.expires)),
    ),
    section(
      'Before you give anything',
      h(
        'ol',
        {},
        h(
          'li',
          {},
          `Call ${from} on a number that you have known for long, or meet. Use no number out of the message.`,
        ),
        h(
          'li',
          {},
          `Make sure that it is ${from}: the face or the voice, and something that only the two of you know.`,
        ),
        h('li', {}, `Let ${from} read six words off the new device. They have to be these, in this order:`),
      ),
      h('ol', { class: 'spoken', 'aria-label': 'The six words' }, ...words.map(word => h('li', {}, word))),
      h('p', {}, 'One other word, or nobody to read them: give nothing.'),
      form(
        app,
        answer,
        h(
          'div',
          { class: 'tick' },
          compared,
          h('label', { for: 'compared' }, `I recognised ${from}, who read these same six words to me just now.`),
        ),
        h(
          'div',
          { class: 'row' },
          giveIt,
          button('Give nothing', () => app.home()),
        ),
      ),
    ),
  )
}

function answers(app: App, from: string, given: readonly Uint8Array[]): void {
  app.show(
    `Send this to ${from}`,
    h(
      'p',
      { class: 'lead' },
      `Only the device that asked can open it, for this one request. Send it by mail or message, as a file or as text.`,
    ),
    ...given.map((message, i) => {
      const what = given.length === 1 ? 'Your answer' : `Answer ${i + 1} of ${given.length}`
      return section(what, carry(app.p, { message, file: `answer-${i + 1}.answer`, what, say: app.say }))
    }),
    button('Back to what I hold', () => app.home()),
  )
}

export function importing(app: App, file: Uint8Array): void {
  const asks = app.fileNeedsPassphrase(file)
  const passphrase = passphraseInput('current-password')
  const open = async () => {
    app.say('Opening…')
    await painted()
    const bytes = asks ? typed(passphrase) : null
    const isKept = await app.importFile(file, bytes).finally(() => bytes?.fill(0))
    if (!isKept) return
    app.goOn()
    app.say('Your file was taken in.')
  }
  app.show(
    'Your saved file',
    app.kept === null
      ? h(
          'p',
          {},
          'The key and the shares in it will be kept in this browser. Take in only what you saved yourself: a key that somebody sends you, that somebody has, too.',
        )
      : h('p', {}, 'Shares in it that are not here yet will be added. Nothing here is replaced.'),
    form(
      app,
      open,
      asks ? field('Passphrase of the file', passphrase) : null,
      h(
        'div',
        { class: 'row' },
        submit('Take it in'),
        button('Do not', () => app.home()),
      ),
    ),
  )
}

function copies(app: App, kept: Kept): HTMLElement {
  const state = h('p', { class: kept.exported === 0 ? 'warning' : '' })
  state.textContent =
    kept.exported === 0
      ? 'What you hold is in this browser alone. Browsers lose things: save a file, and keep it like a spare key.'
      : `You saved it as a file on ${date(kept.exported)}.`
  const secret =
    app.lid === null
      ? 'Whoever has the file, or this browser, can answer in your name. A passphrase locks both.'
      : 'The file and this browser are locked with your passphrase.'
  const saveFile = async () => {
    const next = { ...current(app), exported: now() }
    const file = await sealKept(app.p, next, app.lid)
    if (!(await app.keep(next))) return
    save('my-shares.friend', file)
    app.home()
    app.say('Saved. Keep the file where you will find it again.')
  }
  const first = passphraseInput('new-password')
  const second = passphraseInput('new-password')
  const change = async () => {
    const passphrase = chosen(first, second)
    app.say('Working…')
    await painted()
    const lid = passphrase === null ? null : newLid(app.p, passphrase)
    passphrase?.fill(0)
    if (!(await app.keep({ ...current(app), exported: 0 }, lid))) return
    app.home()
    app.say(lid === null ? 'There is no passphrase any more.' : 'The passphrase is set. Save your file anew.')
  }
  return section(
    'Keep it safe',
    state,
    h('p', { class: 'hint' }, secret),
    h(
      'div',
      { class: 'row' },
      button('Save my file', () => app.act(saveFile), 'main'),
    ),
    h(
      'details',
      {},
      h('summary', {}, app.lid === null ? 'Set a passphrase' : 'Change or remove the passphrase'),
      form(
        app,
        change,
        field('New passphrase', first, 'Leave both empty for none. If you forget it, your share is lost.'),
        field('The same passphrase again', second),
        submit('Set it'),
      ),
    ),
    forgetting(app, 'Your key and every share here are deleted. Without your saved file they are gone for good.'),
  )
}

function forgetting(app: App, consequence: string): HTMLElement {
  const sure = h('input', { type: 'checkbox', id: 'sure' })
  const forget = button('Delete everything here', () => app.act(() => app.forget()), 'danger')
  forget.disabled = true
  sure.addEventListener('change', () => {
    forget.disabled = !sure.checked
  })
  return h(
    'details',
    {},
    h('summary', {}, 'Delete everything in this browser'),
    h('p', {}, consequence),
    h('div', { class: 'tick' }, sure, h('label', { for: 'sure' }, 'I understand, and want it deleted.')),
    forget,
  )
}
