/** `pod backup`, `verify-backup`, `restore`, `export`. */
import { createWriteStream, existsSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { fromHex, hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection, Unavailable } from '../../attestation/errors.ts'
import { algorithm, type PublicKey } from '../../attestation/session/keys.ts'
import { backup } from '../backup/backup.ts'
import { exportAll } from '../backup/export.ts'
import { restore } from '../backup/restore.ts'
import { verifyBackup } from '../backup/verify.ts'
import type { PlainRecipient } from '../containers/age.ts'
import type { Context } from './context.ts'
import { date, printable, secretFromFile } from './terminal.ts'

const now = () => Math.floor(Date.now() / 1000)
/** A large restore is written for a while before the pod answers. */
const RESTORE_ANSWER_SECONDS = 1800

/** `6h`, `30m`, `1d`: seconds. */
export function interval(text: string): number {
  const [, count, unit] = /^(\d{1,5})([mhd])$/.exec(text) ?? []
  const seconds = Number(count) * { m: 60, h: 3600, d: 86_400 }[unit as 'm' | 'h' | 'd']
  if (unit === undefined || seconds === 0)
    throw new Malformed(`"${text}" is not an interval: such as 30m, 6h, 1d`, 'data')
  return seconds
}

export type BackupOptions = Readonly<{ full?: boolean; every?: string }>

export async function makeBackup(context: Context, folder: string, options: BackupOptions): Promise<void> {
  const every = options.every === undefined ? null : interval(options.every)
  if (every === null) return makeOne(context, folder, options.full === true, line => line)
  for (;;) {
    try {
      await makeOne(context, folder, options.full === true, line => context.terminal.note(line))
    } catch (error) {
      // The next one holds what this one should have; a refusal is for the owner to see now.
      if (!(error instanceof Unavailable)) throw error
      context.terminal.note(`not this time: ${error.message}`)
    }
    await sleep(every * 1000)
  }
}

async function makeOne(
  context: Context,
  folder: string,
  full: boolean,
  tell: (line: string) => unknown,
): Promise<void> {
  const { terminal, primitives: p } = context
  await context.session(async session => {
    const started = performance.now()
    const report = await terminal.progress(`backing up to ${folder}`, update =>
      backup(p, session, folder, { full, now: now(), onProgress: items => update(items, items) }),
    )
    const seconds = (performance.now() - started) / 1000
    const kind = report.full ? 'everything' : 'what changed'
    const line = `backup ${report.number}: ${kind}, ${report.items} items, ${report.chunks} file chunks, ${report.bytes} bytes, ${seconds.toFixed(1)} s`
    const { head, ...rest } = report
    if (tell(line) === line) {
      terminal.show({ folder, ...rest, head: { size: head.size, logRoot: hex(head.logRoot) }, seconds }, [
        line,
        `Check it without any key: pod verify-backup ${folder}`,
      ])
    }
  })
}

export type VerifyOptions = Readonly<{ owner?: string; open?: boolean }>

export async function checkBackup(context: Context, folder: string, options: VerifyOptions): Promise<void> {
  const { terminal, primitives: p } = context
  const owner = options.owner === undefined ? (await context.home()).launchConfig.owner : ownerKey(options.owner)
  const roots = options.open ? (await context.owner()).roots : undefined
  const { backups, objects, bytes, items } = await terminal.progress(`checking ${folder}`, update =>
    verifyBackup(p, folder, { owner, ...(roots && { roots }), onProgress: count => update(count, count) }),
  )
  const document = {
    folder,
    owner: hex(owner.key),
    pod: hex((backups[0] as (typeof backups)[number]).podId),
    backups: backups.map(({ number, created, head, epoch }) => ({ number, created, leaves: head.size, epoch })),
    objects,
    bytes,
    items,
  }
  terminal.show(document, [
    ...backups.map(
      ({ number, created, head }) => `backup ${number}  ${date(created)}  up to entry ${head.size} of the log`,
    ),
    `complete, in order and unchanged: ${backups.length} backups, ${objects} objects, ${bytes} bytes`,
    items === null
      ? "Nothing was opened. With --open the owner's keys also prove that every item is in there."
      : `${items} items: exactly those that the newest head names`,
  ])
}

function ownerKey(text: string): PublicKey {
  const key = fromHex(text)
  if (key?.length === 32) return { algorithm: algorithm.ed25519, key }
  throw new Malformed(`--owner: expected 64 hexadecimal digits, got "${text}"`, 'data')
}

export type RestoreOptions = Readonly<{ newPod?: boolean; to?: number }>

export async function restoreBackup(context: Context, folder: string, options: RestoreOptions): Promise<void> {
  const { terminal, primitives: p } = context
  if (options.newPod) {
    // Before anything is given up for it: a backup that cannot be restored is found now.
    const owner = await context.owner()
    await terminal.progress(`checking ${folder}`, () =>
      verifyBackup(p, folder, { owner: owner.home.launchConfig.owner, roots: owner.roots }),
    )
    const old = hex(owner.home.launchConfig.podId)
    const { podId } = await owner.home.beginNewPod()
    terminal.show({ pod: hex(podId), before: old, launch: hex(owner.home.launch) }, [
      `This home now belongs to a new pod, ${hex(podId)}; files of ${old} are kept beside it.`,
      `Next: start it (pod up, or give the new launch config to your hoster), then: pod restore ${folder}`,
    ])
    return
  }
  await context.session(
    async session => {
      const report = await terminal.progress(`restoring ${folder}`, update =>
        restore(p, session, folder, {
          ...(options.to !== undefined && { upTo: options.to }),
          onProgress: count => update(count, count),
        }),
      )
      terminal.show({ ...report, from: hex(report.from) }, [
        `restored ${report.items} items from backup ${report.backup} of ${date(report.created)}`,
        'The log of this pod names the old one. Back this pod up into a folder of its own.',
      ])
    },
    false,
    { answerSeconds: RESTORE_ANSWER_SECONDS },
  )
}

export type ExportOptions = Readonly<{ to?: string; withPassphrase?: string | true }>

export async function exportData(context: Context, path: string, options: ExportOptions): Promise<void> {
  const { terminal } = context
  if (existsSync(path)) throw new Rejection('data', 'conflict', `${path} is there already; it stays as it is`)
  const to = await recipientOf(context, options)
  await context.session(async (session, owner) => {
    const collections = await owner.collections()
    const part = `${path}.part`
    const report = await terminal.progress(`exporting to ${path}`, async update => {
      const made = await exportAll(session, { to, collections, now: now(), onProgress: items => update(items, items) })
      try {
        await pipeline(Readable.fromWeb(made.stream as never), createWriteStream(part, { mode: 0o600, flush: true }))
        await rename(part, path)
      } catch (error) {
        await rm(part, { force: true })
        const code = (error as NodeJS.ErrnoException).code
        if (code === 'ENOSPC') throw new Unavailable(`${path}: no space left`, 60)
        throw code === 'ENOENT' || code === 'EACCES' ? new Malformed(`${path}: ${code}`, 'data') : error
      }
      return made.report()
    })
    terminal.show({ path, ...report, collections }, [
      `exported ${report.items} items and ${report.files} files of ${collections.map(printable).join(', ')} to ${path}`,
      `Anybody with the key reads it: age -d ${'recipient' in to ? '-i KEY ' : ''}${path} | tar x`,
      'age keys of this kind do not withstand a future quantum computer.',
    ])
  })
}

/** age takes a passphrase as text: the one place where a secret of the owner's is a string, and not one of the pod's. */
async function recipientOf({ terminal }: Context, { to, withPassphrase }: ExportOptions): Promise<PlainRecipient> {
  if ((to === undefined) === (withPassphrase === undefined)) {
    throw new Malformed('say --to age1... (see age-keygen), or --with-passphrase [FILE]', 'data')
  }
  if (to !== undefined) return { recipient: to }
  const secret =
    withPassphrase === true
      ? await terminal.newSecret('--with-passphrase FILE')
      : await secretFromFile(withPassphrase as string)
  if (secret === null) throw new Malformed('an export without a passphrase goes to a recipient: --to age1...', 'data')
  try {
    return { passphrase: new TextDecoder('utf-8', { fatal: true }).decode(secret) }
  } finally {
    secret.fill(0)
  }
}
