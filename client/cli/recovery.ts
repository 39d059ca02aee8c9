/** `pod recovery`: the plan, its shares, their proofs; and the way back when every device is gone. */
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { fromHex, hex, utf8Text } from '../../attestation/bytes.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { Malformed, Rejection, Unavailable } from '../../attestation/errors.ts'
import { OwnerHome } from '../owner/home.ts'
import { OwnerRecovery } from '../owner/recovery.ts'
import { ownerFingerprint } from '../recovery/box.ts'
import { decodeKit, GATHERING_CAP, Gathering, KIT_CAP } from '../recovery/gathering.ts'
import { decodeHolderKey, type HolderKey, holderFingerprint, holderWords, sealShareFor } from '../recovery/holder.ts'
import { decodeHeldShare, HELD_SHARE_CAP, type HeldShare } from '../recovery/manifest.ts'
import {
  fingerprintText,
  fitsPdf,
  MOST_PLACE,
  type PaperSize,
  type Sheet,
  sheetHtml,
  sheetOf,
  sheetPdf,
  sheetText,
} from '../recovery/paper.ts'
import { checkRecoveryPlan, defaultPlan, describePlan, type Plan, simulateLoss } from '../recovery/plan.ts'
import { encodeRequest, spokenCode } from '../recovery/request.ts'
import { scanSheet } from '../recovery/scan.ts'
import type { Context } from './context.ts'
import { decodePicture, PICTURE_CAP } from './pictures.ts'
import { messageLink, messageText, MESSAGE_CAP, readMessage } from '../web/codes/message.ts'
import { date, printable, readInput, secretFromFile } from './terminal.ts'

const now = () => Math.floor(Date.now() / 1000)
const GATHERING = 'recovery-under-way'
const PLAN_CAP = 64 * 1024

async function fileOf(path: string, cap: number): Promise<Uint8Array> {
  try {
    const bytes = path === '-' ? await readInput() : new Uint8Array(await readFile(path))
    if (bytes.length > cap) throw new Malformed(`${path}: ${bytes.length} bytes, expected at most ${cap}`, 'data')
    return bytes
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw typeof code === 'string' ? new Malformed(`${path} cannot be read: ${code}`, 'data') : error
  }
}

/** What people send: the bytes of a message, or its text or link, as a friend's page gives it. */
async function messageOf(path: string): Promise<Uint8Array> {
  const bytes = await fileOf(path, 2 * MESSAGE_CAP)
  const text = utf8Text(bytes)
  return text !== null && /^\s*(?:pod1\.|https?:|file:)/.test(text) ? readMessage(text) : bytes
}

export type PlanOptions = Readonly<{
  friend?: readonly string[]
  trustee?: string
  file?: string
  lose?: readonly string[]
}>

async function planOf({ friend = [], trustee, file }: PlanOptions): Promise<Plan> {
  if (file === undefined) return defaultPlan(friend, trustee ?? null)
  if (friend.length > 0 || trustee !== undefined)
    throw new Malformed('either --file, or --friend and --trustee', 'data')
  const text = utf8Text(await fileOf(file, PLAN_CAP))
  try {
    const plan = JSON.parse(text ?? '') as Plan
    checkShape(plan)
    checkRecoveryPlan(plan)
    return plan
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw new Malformed(`${file} is not a plan: it is not JSON (pod recovery plan --json prints one)`, 'data')
  }
}

/** Names and kinds as `pod recovery plan --json` writes them; an unknown field would be a wish that nobody grants. */
function checkShape(plan: unknown): asserts plan is Plan {
  const isObject = (value: unknown, keys: string): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && Object.keys(value).toSorted().join() === keys
  const isList = (value: unknown, each: (value: unknown) => boolean) => Array.isArray(value) && value.every(each)
  const isHolder = (value: unknown) =>
    isObject(value, 'kind,name') &&
    typeof value['name'] === 'string' &&
    ['paper', 'person', 'organisation'].includes(value['kind'] as string)
  const isGroup = (value: unknown) =>
    isObject(value, 'holders,name,threshold') &&
    typeof value['name'] === 'string' &&
    typeof value['threshold'] === 'number' &&
    isList(value['holders'], isHolder)
  const isRoute = (value: unknown) =>
    isObject(value, 'groupThreshold,groups,name,passphrase') &&
    typeof value['name'] === 'string' &&
    typeof value['passphrase'] === 'boolean' &&
    typeof value['groupThreshold'] === 'number' &&
    isList(value['groups'], isGroup)
  if (isObject(plan, 'routes') && isList(plan['routes'], isRoute)) return
  throw new Malformed(
    'not a plan as pod recovery plan --json prints one: a field is missing, unknown or of another type',
    'data',
  )
}

const previewOf = (plan: Plan): string[] => [
  'Any one of these brings everything back:',
  ...describePlan(plan).map(line => `  * ${printable(line)}`),
]

export async function showPlan({ terminal }: Context, options: PlanOptions): Promise<void> {
  const plan = await planOf(options)
  const lost = new Set(options.lose ?? [])
  const known = new Set(
    plan.routes.flatMap(({ groups }) => groups.flatMap(({ holders }) => holders.map(({ name }) => name))),
  )
  for (const name of lost)
    if (!known.has(name)) throw new Malformed(`--lose: nobody in this plan is called "${name}"`, 'data')
  const simulated = simulateLoss(plan, lost)
  const gone = lost.size === 0 ? 'As it stands' : `Without ${[...lost].map(printable).join(', ')}`
  terminal.show(terminal.json && lost.size === 0 ? plan : { plan, simulated }, [
    ...previewOf(plan),
    `${gone}:`,
    ...simulated.map(({ route, works, spare }) => {
      const rest = spare === 0 ? 'nobody more may be lost' : `any ${spare} more may be lost`
      return `  ${printable(route)}: ${works ? `works; ${rest}` : 'GONE'}`
    }),
    ...(simulated.some(({ works }) => works) ? [] : ['Nothing brings the data back then.']),
  ])
}

export type SetUpOptions = PlanOptions &
  Readonly<{
    out: string
    paper: PaperSize
    kitAt?: string
    holder?: readonly string[]
    routePassphrase?: readonly string[]
  }>

const pairOf = (option: string, text: string): [string, string] => {
  const at = text.indexOf('=')
  if (at > 0) return [text.slice(0, at), text.slice(at + 1)]
  throw new Malformed(`${option}: expected NAME=FILE, got "${text}"`, 'data')
}

/** A new version of the plan: every share into a file of its own, for its holder alone. */
export async function setUp(context: Context, options: SetUpOptions): Promise<void> {
  const { terminal, primitives: p } = context
  if ((options.kitAt?.length ?? 0) > MOST_PLACE) {
    throw new Malformed(`--kit-at: ${options.kitAt?.length} characters; a sheet has room for ${MOST_PLACE}`, 'data')
  }
  const plan = await planOf(options)
  const keys = new Map<string, HolderKey>()
  for (const given of options.holder ?? []) {
    const [name, path] = pairOf('--holder', given)
    keys.set(name, decodeHolderKey(await messageOf(path)))
  }
  const passphrases = new Map<string, Uint8Array>()
  for (const given of options.routePassphrase ?? []) {
    const [name, path] = pairOf('--route-passphrase', given)
    passphrases.set(name, await secretFromFile(path))
  }
  const owner = await context.owner()
  const recovery = new OwnerRecovery(p, owner)
  const fingerprints = new Map([...keys].map(([name, key]) => [name, holderFingerprint(p, key)]))
  const dealt = await terminal.progress('splitting', () => recovery.prepare(plan, passphrases, fingerprints, now()))
  await mkdir(options.out, { recursive: true, mode: 0o700 })
  const root = { key: owner.home.launchConfig.owner, sign: owner.sign }
  const files: { holder: string; file: string; page?: string; pdf?: string; words?: string }[] = []
  for (const [i, share] of dealt.shares.entries()) {
    const { holder } = share
    const key = keys.get(holder.name)
    const base = `${String(i + 1).padStart(2, '0')}-${holder.name.replace(/[^\p{L}\p{N}]+/gu, '-')}`
    if (key === undefined) {
      const sheet = sheetOf(p, share, { made: date(now()), kitAt: options.kitAt ?? null })
      const { text, page, pdf } = await writeSheet(context, join(options.out, base), sheet, options.paper)
      files.push({ holder: holder.name, file: text, page, pdf })
    } else {
      const file = join(options.out, `${base}.share`)
      await writeFile(file, await sealShareFor(p, root, key, share.share, now()), { mode: 0o600, flag: 'wx' })
      files.push({ holder: holder.name, file, words: holderWords(p, key) })
    }
  }
  const fingerprint = hex(ownerFingerprint(p, root.key))
  terminal.show({ version: dealt.policy.version, owner: fingerprint, files, plan }, [
    ...previewOf(plan),
    '',
    ...files.map(({ holder, file, pdf, words }) =>
      words === undefined
        ? `${pdf}   sheet for ${printable(holder)} (also .html and .txt): print it, confirm the print, delete the files`
        : `${file}   for ${printable(holder)} alone, if this is what he reads to you: ${words}`,
    ),
    '',
    `Each holder sees this owner, and asks you for it: ${(fingerprint.match(/.{4}/g) ?? []).join(' ')}`,
    `Plan ${dealt.policy.version} counts once every holder has confirmed: pod recovery confirm`,
  ])
}

/** The page to print, in three forms; none is written over another. Returns the PDF's path. */
async function writeSheet({ terminal, primitives: p }: Context, base: string, sheet: Sheet, paper: PaperSize) {
  const write = (ending: string, data: string | Uint8Array) =>
    writeFile(`${base}.${ending}`, data, { mode: 0o600, flag: 'wx' })
  await write('txt', sheetText(sheet))
  await write('html', sheetHtml(p, sheet))
  await write('pdf', sheetPdf(sheet, paper))
  if (!fitsPdf(sheet)) {
    terminal.note(`${base}.pdf lacks letters that its fonts do not have (shown as ?): print ${base}.html instead`)
  }
  return { text: `${base}.txt`, page: `${base}.html`, pdf: `${base}.pdf` }
}

/** The page that friends keep shares in: one file, the same in a checkout and in the installed package. */
export async function writeFriendPage({ terminal, primitives: p }: Context, path: string): Promise<void> {
  const folders = [resolve(import.meta.dirname, '../..'), resolve(import.meta.dirname, '../../..')]
  const built = folders.map(folder => join(folder, 'build', 'web', 'friend.html')).find(existsSync)
  if (built === undefined) throw new Unavailable('the page is not built here: npm run build')
  const page = new Uint8Array(await readFile(built))
  await writeFile(path, page)
  const sha256 = hex(p.sha256(page))
  terminal.show({ path, bytes: page.length, sha256 }, [
    `${path}: send it to each friend, or put it on a server of your own. It works from a disk, without a network.`,
    `SHA-256 ${sha256}`,
  ])
}

export type LinkOptions = Readonly<{ page?: string }>

/** A share or a request as a link; what is behind the # goes to no server. */
export async function showLink({ terminal }: Context, path: string, { page }: LinkOptions): Promise<void> {
  if (page !== undefined && (!URL.canParse(page) || page.includes('#'))) {
    throw new Malformed(`--page: expected an address without #, got "${page}"`, 'data')
  }
  const message = await fileOf(path, MESSAGE_CAP)
  const link = page === undefined ? messageText(message) : messageLink(page, message)
  terminal.show({ link }, [link])
}

export type ConfirmOptions = Readonly<{
  image?: string
  wordsFile?: string
  shareFile?: string
  ask?: string
  answer?: string
}>

export async function confirm(context: Context, options: ConfirmOptions): Promise<void> {
  const { terminal, primitives: p } = context
  const recovery = new OwnerRecovery(p, await context.owner())
  if (options.ask !== undefined && options.answer === undefined) {
    const nonce = await recovery.question(options.ask)
    terminal.show({ holder: options.ask, question: hex(nonce) }, [
      `Ask ${printable(options.ask)} for the answer to ${hex(nonce)}`,
      `then: pod recovery confirm --ask "${printable(options.ask)}" --answer HEX`,
    ])
    return
  }
  const name = await proveBy(p, recovery, options)
  const { pending, active, holders } = await recovery.status(now())
  const missing = holders.filter(({ confirmed }) => !confirmed).map(holder => holder.name)
  terminal.show({ holder: name, active, pending, missing }, [
    `${printable(name)} holds the share.`,
    pending === null
      ? `Plan ${active} counts. Put the kit where you can be found: pod recovery kit FILE`
      : `Still to confirm: ${missing.map(printable).join(', ')}`,
  ])
}

async function proveBy(p: Primitives, recovery: OwnerRecovery, options: ConfirmOptions): Promise<string> {
  const { image, wordsFile, shareFile, ask, answer } = options
  if (ask !== undefined && answer !== undefined) {
    const bytes = fromHex(answer)
    if (bytes?.length !== 32) throw new Malformed('--answer: expected 64 hexadecimal digits', 'data')
    return recovery.proveByAnswer(ask, bytes, now())
  }
  if (image !== undefined) return recovery.confirmShare(await shareIn(p, image), now())
  if (shareFile !== undefined) {
    return recovery.confirmShare(decodeHeldShare(await fileOf(shareFile, HELD_SHARE_CAP)), now())
  }
  if (wordsFile === undefined) {
    throw new Malformed(
      'say --image FILE (a scan or photo of the sheet), --words-file FILE (- for standard input), or --ask NAME',
      'data',
    )
  }
  return recovery.confirmWords(await wordsFrom(wordsFile), now())
}

/** The share on a scanned or photographed sheet. */
async function shareIn(p: Primitives, path: string): Promise<HeldShare> {
  return scanSheet(p, decodePicture(await fileOf(path, PICTURE_CAP)))
}

/** The words alone, also out of a sheet as `set-up` wrote it: numbers and lines around them are let go. */
async function wordsFrom(path: string): Promise<string> {
  const text = utf8Text(await fileOf(path, 16 * 1024))
  if (text === null) throw new Malformed(`${path} is not text`, 'data')
  const rows = text.split('\n').filter(line => /^(?:\s*\d{1,2}\s+[a-z]+)+\s*$/.test(line))
  const numbered = rows.flatMap(row => row.match(/[a-z]+/g) ?? [])
  return numbered.length >= 20 ? numbered.join(' ') : text
}

export async function showStatus(context: Context): Promise<void> {
  const recovery = new OwnerRecovery(context.primitives, await context.owner())
  const status = await recovery.status(now())
  const { active, pending, plan, holders } = status
  context.terminal.show(status, [
    ...(plan === null ? ['No recovery plan. Losing this device loses the data: pod recovery plan'] : previewOf(plan)),
    ...(active === null ? [] : [`Plan ${active} counts.`]),
    ...(pending === null
      ? []
      : [
          `Plan ${pending} waits for confirmations; until then ${active === null ? 'nothing counts' : 'the one before it does'}.`,
        ]),
    ...holders.map(({ name, kind, confirmed, lastProof, due }) => {
      const proof = confirmed
        ? `last shown ${date(lastProof)}${due ? ', MORE THAN A YEAR AGO: ask again' : ''}`
        : 'NOT CONFIRMED'
      return `  ${printable(name).padEnd(16)} ${kind.padEnd(13)} ${proof}`
    }),
  ])
}

export async function writeKit(context: Context, path: string): Promise<void> {
  const recovery = new OwnerRecovery(context.primitives, await context.owner())
  const kit = await recovery.kit(now())
  await writeFile(path, kit, { mode: 0o600 })
  context.terminal.show({ path, bytes: kit.length }, [
    `${path}: the recovery kit, ${kit.length} bytes. It opens nothing by itself; keep copies where you can be found,`,
    'beside every backup, and make it anew after changes of devices, collections or policy, and monthly.',
  ])
}

export type BeginOptions = Readonly<{ lost?: boolean; stolen?: boolean }>

export async function begin(context: Context, path: string, { lost, stolen }: BeginOptions): Promise<void> {
  const p = context.primitives
  if ((lost === true) === (stolen === true)) {
    throw new Malformed(
      'were the keys lost, or may somebody else have them? Say --lost or --stolen: it decides what comes after',
      'data',
    )
  }
  const folder = await context.folder()
  if ((await OwnerHome.find(p, folder)) !== null) {
    const detail = `${folder.path} holds an owner already; recover into another place: --home DIR`
    throw new Rejection('data', 'conflict', detail)
  }
  if (((await folder.read(GATHERING))?.length ?? 0) > 0) {
    throw new Rejection('data', 'conflict', `a recovery is under way in ${folder.path}: pod recovery progress`)
  }
  const gathering = await Gathering.begin(p, decodeKit(await fileOf(path, KIT_CAP)), stolen ? 'stolen' : 'lost', now())
  await folder.write(GATHERING, gathering.save())
  await showProgress(context)
}

async function underWay(context: Context): Promise<Gathering> {
  const folder = await context.folder()
  const saved = await folder.read(GATHERING)
  if (saved === null || saved.length === 0)
    throw new Rejection('data', 'not-found', `no recovery is under way in ${folder.path}: pod recovery begin KIT`)
  if (saved.length > GATHERING_CAP) throw new Malformed(`${folder.path}/${GATHERING} is damaged`, 'data')
  return Gathering.restore(context.primitives, saved, now())
}

export async function showProgress(context: Context): Promise<void> {
  const gathering = await underWay(context)
  const code = spokenCode(context.primitives, gathering.request)
  const progress = gathering.progress()
  const request = encodeRequest(gathering.request)
  const owner = fingerprintText(gathering.request.owner)
  const document = {
    owner,
    request: hex(request),
    spokenCode: code,
    expires: gathering.request.expires,
    routes: progress.map(({ route, complete, passphrase, groups, groupThreshold }) => ({
      route: route + 1,
      complete,
      passphrase,
      groupThreshold,
      groups: groups.map(({ have, missing, threshold }) => ({
        have: have.length,
        of: have.length + missing.length,
        threshold,
      })),
    })),
  }
  context.terminal.show(document, [
    `The kit is of the owner  ${owner}; every sheet must say the same.`,
    `Asked for by these words, to be compared by voice:  ${code}`,
    ...document.routes.flatMap(({ route, complete, groups, groupThreshold, passphrase }) => [
      `way back ${route}: ${complete ? 'COMPLETE' : `${groupThreshold} of ${groups.length} groups needed`}${passphrase ? ', and its passphrase' : ''}`,
      ...groups.map(
        ({ have, of, threshold }, i) => `   group ${i + 1}: ${have} of ${threshold} needed (${of} hold one)`,
      ),
    ]),
    progress.some(({ complete }) => complete)
      ? 'Next: pod recovery finish'
      : 'Next: pod recovery request FILE for holders with an app; pod recovery add for each answer or sheet',
  ])
}

export async function writeRequest(context: Context, path: string): Promise<void> {
  const gathering = await underWay(context)
  await writeFile(path, encodeRequest(gathering.request), { mode: 0o600 })
  const code = spokenCode(context.primitives, gathering.request)
  context.terminal.show({ path, spokenCode: code }, [
    `${path}: send it to each holder, and call: both of you must read the same words.`,
    `  ${code}`,
  ])
}

export type AddOptions = Readonly<{ image?: string; wordsFile?: string; route: number }>

export async function add(
  context: Context,
  answer: string | undefined,
  { image, wordsFile, route }: AddOptions,
): Promise<void> {
  const gathering = await underWay(context)
  if ([answer, image, wordsFile].filter(given => given !== undefined).length !== 1) {
    throw new Malformed(
      'say one of: the file of an answer, --image FILE (a scan or photo of a sheet), --words-file FILE (- for standard input)',
      'data',
    )
  }
  if (image !== undefined) gathering.addShare(await shareIn(context.primitives, image))
  else if (wordsFile !== undefined) {
    const { changed } = gathering.addWords(route - 1, await wordsFrom(wordsFile))
    for (const place of changed) context.terminal.note(`corrected word ${place}: compare it with the sheet`)
  } else await gathering.addAnswer(await messageOf(answer as string))
  await (await context.folder()).write(GATHERING, gathering.save())
  await showProgress(context)
}

export type FinishOptions = Readonly<{ route?: number; routePassphrase?: string; passphrase: boolean }>

/** The owner again, on this device: the same pod, every device that was known revoked, a new plan due. */
export async function finish(context: Context, options: FinishOptions): Promise<void> {
  const { terminal, primitives: p, globals } = context
  const folder = await context.folder()
  const gathering = await underWay(context)
  const complete = gathering
    .progress()
    .find(each => each.complete && (options.route ?? each.route + 1) === each.route + 1)
  if (complete === undefined) throw new Rejection('data', 'incomplete', 'not enough shares yet: pod recovery progress')
  if (gathering.request.purpose === 2) {
    throw new Rejection(
      'data',
      'conflict',
      'stolen keys end with a new owner key, a new pod and re-sealed data, which this version cannot make yet; --lost gives the same keys back, and whoever stole them still has them',
    )
  }
  const routeSecret = options.routePassphrase === undefined ? null : await secretFromFile(options.routePassphrase)
  const payload = await terminal.progress('opening the box', () => gathering.open(complete.route, routeSecret))
  const passphrase = options.passphrase ? await vaultPassphrase(context) : null
  const home = await OwnerHome.recover(p, folder, {
    launch: gathering.launch,
    payload,
    now: now(),
    ...(globals.url !== undefined && { url: globals.url }),
    ...(passphrase !== null && { passphrase }),
  })
  await folder.write(GATHERING, new Uint8Array())
  const { podId } = home.launchConfig
  terminal.show(
    { home: folder.path, pod: hex(podId), revoked: payload.devices.map(hex), collections: payload.collections },
    [
      `You are back: the owner of pod ${hex(podId)}, in ${folder.path}.`,
      `${payload.devices.length} devices are revoked with the next unlock: pod unlock --manifest FILE`,
      'The shares that were used are known to others now: deal a new plan with pod recovery set-up.',
    ],
  )
}

async function vaultPassphrase({ terminal, globals }: Context): Promise<Uint8Array | null> {
  if (globals.passphraseFile !== undefined) return secretFromFile(globals.passphraseFile)
  return terminal.newSecret('--passphrase-file FILE or --no-passphrase')
}
